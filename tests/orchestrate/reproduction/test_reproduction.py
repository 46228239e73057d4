"""A version is trained again from its record; each verdict is proved by changing exactly one thing."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from mlops_assets.cli.project import load
from mlops_assets.cli.registry.reproduce import reproduce as reproduce_command
from mlops_assets.compute.training.environment import installed_distributions, parse_lock
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.errors import ArtifactError, DataError, InstallationError, LakeError, MissingExtraError, RegistryError
from mlops_assets.orchestrate.core.dagster_files import open_instance
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.reproduction import process as reproduction_process
from mlops_assets.orchestrate.reproduction import reproduction
from mlops_assets.orchestrate.reproduction.checks import build_reproduction_schedule, find_nondeterminism, report_reproduction
from mlops_assets.orchestrate.reproduction.locked_environment import prepare_locked_python
from mlops_assets.orchestrate.reproduction.reproduction import ReproductionOptions, reproduce
from mlops_assets.orchestrate.upkeep.upkeep import run_upkeep
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.stores.registry.erasures import DONE, open_erasure_log
from mlops_assets.stores.registry.reproductions import Reproduction, open_reproductions
from mlops_assets.values.platform import Platform
from tests.conftest import ROOT, Runner
from tests.memory_instance import open_memory_instance

TEXT = (ROOT / "tests/projects/repeatable.py").read_text()
TABLE = "training_set/examples"


class World:
    """One project in a folder, trained and registered."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "definitions.py"
        self.platform = Platform.at(folder / "home")
        self.written(TEXT)
        with open_memory_instance() as instance:
            Runner(self.project.definitions, instance)()

    def written(self, text: str) -> None:
        self.file.write_text(text)
        self.project = load(str(self.file))
        self.model = sys.modules["definitions"].buys

    @property
    def at(self) -> Stores:
        return open_stores(self.platform)

    @property
    def version(self):
        return self.at.registry.versions("buys")[0]

    @property
    def facts(self) -> dict:
        return self.at.tracker.get(self.version.run_id).record["facts"]

    def again(self, **asked):
        return reproduce(self.at, self.version, self.model.function.function, ReproductionOptions(**asked))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("repeatable")
        patch.setenv("MLOPS_HOME", str(folder / "home"))
        patch.delenv("SEED", raising=False)
        yield World(folder)


@pytest.fixture
def here(monkeypatch) -> None:
    """Train again in this process: what is told of the new one is told elsewhere."""

    def trained(_python, request, _threads):
        held = sys.modules.pop("definitions")
        path = list(sys.path)
        try:
            return reproduction_process.retrain(request)
        finally:
            sys.modules["definitions"], sys.path[:] = held, path

    monkeypatch.setattr(reproduction, "_run_process", trained)


def test_the_record_holds_what_a_training_is_made_of(world) -> None:
    facts = world.facts
    assert facts["data"] == {TABLE: world.at.lake.records(TABLE)[""].content_hash}
    assert set(facts["tables"]) == {TABLE, "dataset/people"}
    assert set(facts["split"]) == {"train", "validation", "holdout"}
    assert facts["params"] == {"trees": 12}
    assert facts["seeds"] == {"random_state": 0}
    assert facts["drawn"] == []
    assert parse_lock(world.at.artifacts.get(facts["environment"]).decode()) == dict(installed_distributions())
    assert facts["packages"]["scikit-learn"] == installed_distributions()["scikit-learn"]
    assert facts["threads"]["numpy.openblas.num_threads"] >= 1
    source = json.loads(world.at.artifacts.get(facts["source"]))
    text = source["modules"]["definitions"]
    assert "def forest" in text
    assert "DEPTH = 4" in text
    assert "class Size" in text
    assert "def people" not in text
    assert "@ml" not in text


def test_nothing_changed_is_identical_in_a_new_process(world) -> None:
    before = world.at.registry.champion("buys"), world.at.registry.candidate("buys"), len(world.at.tracker.list())
    first = world.again()
    after = world.at.registry.champion("buys"), world.at.registry.candidate("buys"), len(world.at.tracker.list())
    assert after == before
    assert (first.verdict, first.field, first.facts["code"]) == ("IDENTICAL", "", "as stored; the project's code is the same")


@pytest.mark.usefixtures("here")
def test_what_has_become_of_table_and_code_is_named_when_it_is_asked_for(world) -> None:
    store = open_reproductions(world.platform.registry)
    earlier = len(store.list("buys"))
    rows = world.at.lake.read(TABLE)
    changed = rows.with_columns(age=pl.when(pl.col("id") == 3).then(99.0).otherwise("age"))
    world.written(TEXT.replace("DEPTH = 4", "DEPTH = 2"))
    world.at.lake.write(TABLE, changed, [Partition("")])
    try:
        again = world.again()
        assert (again.verdict, again.facts["code"]) == ("IDENTICAL", "as stored; the project's code has changed since")
        data = world.again(data="current")  # one value of one row
        assert (data.verdict, data.field) == ("DIFFERENT", f"data.{TABLE}")
        assert (data.was, data.now) == (world.facts["data"][TABLE], world.at.lake.records(TABLE)[""].content_hash)
        code = world.again(code="current")
        world.written(
            TEXT.replace(
                "    return forest(params.trees)", '    ml.runs.log_metric("trees", params.trees)\n    return forest(params.trees)'
            )
        )
        logs = world.again(code="current")
        assert (logs.verdict, logs.field) == ("EQUIVALENT", "code.source")
        assert len(world.at.tracker.list()) == 1  # what it logs is not of the record
        assert (code.verdict, code.field, code.was) == ("DIFFERENT", "code.source", world.facts["code"]["source"])
    finally:
        world.written(TEXT)
        world.at.lake.write(TABLE, rows, [Partition("")])
    kept = store.list("buys")[earlier:]
    assert [found.verdict for found in kept] == ["IDENTICAL"]  # not those that asked what if
    assert (kept[0].digest, kept[0].mode) == (world.version.digest, "current")


@pytest.mark.usefixtures("here")
def test_a_parameter_is_named(world) -> None:
    found = world.again(params={"trees": 3})
    assert (found.verdict, found.field, found.was, found.now) == ("DIFFERENT", "params.trees", 12, 3)


@pytest.mark.usefixtures("here")
def test_a_seed_that_comes_from_outside_is_named(world, monkeypatch) -> None:
    monkeypatch.setenv("SEED", "1")
    found = world.again()
    assert (found.verdict, found.field, found.was, found.now) == ("DIFFERENT", "seeds.random_state", 0, 1)


def test_another_order_of_the_same_rows_is_named(world, monkeypatch) -> None:
    ordered = reproduction_process.sort_canonically
    monkeypatch.setattr(reproduction_process, "sort_canonically", lambda rows, time: ordered(rows, time).reverse())
    monkeypatch.setattr(reproduction_process, "load_source", lambda _stored, _folder: world.model.function.function)
    monkeypatch.setattr(reproduction, "_run_process", lambda _python, request, _threads: reproduction_process.retrain(request))
    found = world.again()
    assert (found.verdict, found.field) == ("DIFFERENT", "row_order.rows")  # early stopping looks at other rows
    assert all(not difference["field"].startswith("data.") for difference in found.facts["differences"])


def test_code_that_fails_says_where(world) -> None:
    with pytest.raises(DataError, match=r"training again failed with .*trees"):
        world.again(params={"trees": "many"})


@pytest.mark.usefixtures("here")
def test_the_verdict_is_a_check_of_the_version_and_a_job_asks_for_the_champion_s_every_week(world, instance) -> None:
    definitions = world.project.definitions
    schedule = next(s for s in definitions.schedules if s.name == "reproduce_buys_schedule")
    assert (schedule.cron_schedule, schedule.default_status) == ("0 5 * * 0", dg.DefaultScheduleStatus.STOPPED)
    assert definitions.resolve_job_def("reproduce_buys").execute_in_process(instance=instance).success
    key = asset_key("version/buys")
    shown = latest_check(instance, key, "reproducible")
    assert (shown.passed, shown.metadata["verdict"].value) == (True, "IDENTICAL")
    everywhere = build_reproduction_schedule(world.model, replace(world.platform, environment="prod"), running=True)
    in_dev = build_reproduction_schedule(world.model, world.platform, running=True)
    assert (everywhere.default_status.value, in_dev.default_status.value) == ("RUNNING", "STOPPED")
    different = replace(
        open_reproductions(world.platform.registry).list("buys")[-1], verdict="DIFFERENT", field="code.source", was="a", now="b"
    )
    report_reproduction(instance, world.model, world.version, different)
    shown = latest_check(instance, key, "reproducible")
    assert (shown.passed, shown.description) == (False, "buys@1 DIFFERENT: code.source was a, is b")


def fail_in_process(monkeypatch, how: str) -> None:
    """Let the process of the next reproduction raise an error in the recorded code, or die."""
    if how == "raises":
        monkeypatch.setenv("SEED", "many")
    else:
        monkeypatch.setattr(reproduction, "_PROCESS", "mlops_assets.no_such_module")


@pytest.mark.parametrize(("how", "error"), [("raises", DataError), ("dies", InstallationError)])
def test_a_reproduction_that_fails_in_its_process_fails_the_job_and_the_check(world, instance, monkeypatch, how, error) -> None:
    definitions, key = world.project.definitions, asset_key("version/buys")
    report_reproduction(instance, world.model, world.version, Reproduction("buys", 1, world.version.digest, "current", "IDENTICAL"))
    assert latest_check(instance, key, "reproducible").passed
    fail_in_process(monkeypatch, how)
    done = definitions.resolve_job_def("reproduce_buys").execute_in_process(instance=instance, raise_on_error=False)
    assert not done.success
    shown = latest_check(instance, key, "reproducible")
    assert (shown.passed, shown.metadata["verdict"].value) == (False, "FAILED")
    stored = open_reproductions(world.platform.registry).list("buys")[-1]
    assert (stored.verdict, stored.facts["error"], stored.is_reproducible) == ("FAILED", error.__name__, False)
    assert stored.now in shown.description
    again = dg.materialize(list(definitions.asset_checks), instance=instance, selection=dg.AssetSelection.all_asset_checks())
    found = {evaluation.check_name: evaluation for evaluation in again.get_asset_check_evaluations()}["reproducible"]
    assert (found.passed, found.description) == (False, shown.description)  # an older verdict does not return


def test_the_command_reports_an_error_to_the_check_and_shows_it(world, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(world.file.parent / "dagster"))
    fail_in_process(monkeypatch, "raises")
    done = CliRunner().invoke(reproduce_command, ["buys", "-f", str(world.file)])
    assert isinstance(done.exception, DataError)
    assert "invalid literal for int() with base 10: 'many'" in str(done.exception)
    with open_instance(world.platform) as instance:
        shown = latest_check(instance, asset_key("version/buys"), "reproducible")
    assert not shown.passed
    assert shown.description.startswith("buys@1 FAILED: training again failed with ValueError: invalid literal")
    shown = CliRunner().invoke(reproduce_command, ["--history", "buys", "-f", str(world.file), "--json", "-"])
    assert json.loads(shown.output)[0]["verdict"] == "FAILED"


@pytest.mark.parametrize("error", [ArtifactError, DataError, LakeError, MissingExtraError, InstallationError, RegistryError])
def test_each_error_of_the_package_is_a_failed_reproduction_unless_an_input_was_replaced(world, monkeypatch, error) -> None:
    def fail(_python, _request, _facts):
        raise error("it failed", hint="look")

    monkeypatch.setattr(reproduction, "_run_process", fail)
    store = open_reproductions(world.platform.registry)
    earlier = len(store.list("buys"))
    for asked in ({"code": "current"}, {"data": "current"}, {"params": {"trees": 3}}, {}):
        assert len(store.list("buys")) == earlier
        with pytest.raises(error, match="it failed"):
            world.again(**asked)
    assert [found.text for found in store.list("buys")[earlier:]] == ["buys@1 FAILED: it failed"]


def test_an_error_class_of_the_recorded_code_arrives_as_its_public_base_class(world) -> None:
    raising = 'class TooFewRowsError(ml.errors.DataError):\n    pass\n\n\ndef forest(trees: int):\n    raise TooFewRowsError("too few rows", hint="add some")\n\n\n'
    world.written(TEXT.replace("def forest(", f"{raising}def other("))
    try:
        with pytest.raises(DataError, match="too few rows\nHint: add some"):
            world.again(code="current")
    finally:
        world.written(TEXT)


def latest_check(instance, key, name):
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key([dg.AssetCheckKey(key, name)])
    return next(iter(found.values())).event.dagster_event.asset_check_evaluation_data


def test_another_version_of_a_library_is_named_and_is_not_identical(world, tmp_path, monkeypatch) -> None:
    planted = tmp_path / "scikit_learn-0.1.dist-info"
    planted.mkdir()
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 0.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = world.again()
    assert (found.verdict, found.field) == ("EQUIVALENT", "packages.scikit-learn")
    assert (found.was, found.now) == (installed_distributions()["scikit-learn"], "0.1")
    assert found.facts["largest difference of a prediction"] == 0.0


def test_a_number_of_threads_is_named_and_decides_nothing_by_itself(world, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = world.again()
    assert found.verdict == "IDENTICAL"
    assert re.fullmatch(r"threads\.\w+\.(openmp|openblas)\.num_threads", found.field), found.field
    assert (found.was > 1, found.now) == (True, 1)


def test_recorded_versions_are_installed_above_what_there_is(world, tmp_path) -> None:
    """A real other version of a small library, in an environment that takes the rest from here."""
    wanted = {**installed_distributions(), "threadpoolctl": "3.5.0"}
    assert installed_distributions()["threadpoolctl"] != "3.5.0"
    python = prepare_locked_python(wanted, str(tmp_path))
    code = "import threadpoolctl, sklearn, mlops_assets.compute.training.environment as e; print(threadpoolctl.__version__, e.installed_distributions()['threadpoolctl'], sklearn.__version__)"
    done = subprocess.run([str(python), "-P", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["3.5.0", "3.5.0", installed_distributions()["scikit-learn"]]
    assert prepare_locked_python(wanted, str(tmp_path)) == python
    assert prepare_locked_python(installed_distributions(), str(tmp_path)) == Path(sys.executable)


@pytest.mark.usefixtures("here")
def test_what_cannot_be_read_any_more_is_refused(world) -> None:
    version = world.version
    run_upkeep([], world.at, older_than=timedelta(0))
    assert world.again().verdict == "IDENTICAL"  # upkeep keeps what a version pins
    gone = replace(version, snapshot=10_000)
    with pytest.raises(RegistryError, match="snapshot 10000, which it was trained on, is gone"):
        reproduce(world.at, gone, None)
    open_erasure_log(world.platform.registry).add(DONE, actor="ada", reason="request 17", entity="x", facts={"versions": ["buys@1"]})
    with pytest.raises(RegistryError, match=r"buys@1 cannot be reproduced: rows .* were erased on .* \(request 17\)"):
        world.again()


def test_unseeded_randomness_is_reported() -> None:
    facts = {"seeds": {"forest__random_state": None}, "drawn": ["numpy"], "seed": 5, "unsorted": ""}
    assert "forest__random_state is None" in find_nondeterminism(facts)[0]
    assert find_nondeterminism({"seeds": {"logistic__random_state": None}, "drawn": []}) == []  # its solver draws nothing
    assert find_nondeterminism({"unsorted": "rows differ in 'tags' alone"}) == ["rows differ in 'tags' alone"]


def test_the_stored_source_of_a_model_hashes_as_the_project_s(world) -> None:
    assert source_hash(world.model.function.function) == world.facts["code"]["source"]
