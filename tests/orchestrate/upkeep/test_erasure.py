"""An entity is erased for good: no file of the lake and no page of its catalog holds it, and what follows from that is said."""

import os
import shutil
import subprocess
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
from polars.testing import assert_frame_equal

import mlops_assets as ml
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.orchestrate.upkeep import erasure
from mlops_assets.serving.logs.erasure import erase_pushes
from mlops_assets.serving.logs.inference_log import InferenceLog, PredictionRecord, read_log
from mlops_assets.serving.logs.push_log import PushLog, read_pushed_rows
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.online.protocol import Lookup
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.erasures import open_erasure_log
from tests.commands import run_mlops
from tests.conftest import ROOT, Runner, clean_environment, open_dagster, records
from tests.projects import customers as project

VICTIM, ENTITY = project.VICTIM, {"customer": project.VICTIM}
DATA = ("dataset/orders", "features/spending", "features/takings")
TRAIN = ("training_set/returns", "model/returned", "version/returned", "champion/returned")
US = 1_000_000


def holding(folder: Path, text: str = VICTIM) -> list[str]:
    """Return every file below a folder that has some bytes in it."""
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file() and text.encode() in path.read_bytes()]


def log_of(platform: ml.Platform) -> Path:
    return Path(platform.home) / "services" / "returns_api" / "log"


def answered(platform: ml.Platform) -> InferenceLog:
    log = InferenceLog(log_of(platform))
    at = round(project.START.timestamp()) * US
    log.append(
        [
            PredictionRecord(str(i), at + i, at, 1, {"customer": c}, {"amount": 1.0}, 0, 0.5, [], 1)
            for i, c in enumerate(["c1", VICTIM, "c2"])
        ]
    )
    return log


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """The home and the events of a project that holds the entity everywhere."""
    folder = tmp_path_factory.mktemp("template")
    project.GONE.clear()
    with open_dagster(folder / "dagster") as instance:
        runner = Runner(project.build(ml.Platform.at(folder / "home")), instance)
        runner("dataset/orders", partitions=project.WHOLE)
        runner("features/spending", "features/takings", partitions=project.WHOLE)
        runner(*TRAIN)
        runner("online/spending")
    return folder


@pytest.fixture
def made(template, tmp_path, platform):
    project.GONE.clear()
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    with open_dagster(tmp_path / "dagster") as instance:
        yield Runner(project.build(platform), instance)


def asked(platform: ml.Platform, **more) -> erasure.ErasureRequest:
    return erasure.ErasureRequest([compiled_projects()[-1].project], open_stores(platform), more.pop("entity", ENTITY), **more)


def erase(platform: ml.Platform, **more) -> erasure.ErasureReport:
    return erasure.erase(asked(platform, **more), actor="grace", reason="request 17")


def online_value(platform: ml.Platform, customer: str):
    reader = open_stores(platform).online.reader([Lookup("spending", ("spent",), timedelta(days=365))])
    return reader.lookup_one([(customer,)], round((project.START + timedelta(days=7)).timestamp()) * US)[0].values[0]


def stale_tables(platform: ml.Platform) -> dict[str, int]:
    declared = compiled_projects()[-1].project
    nodes = [
        declared.node(n)
        for n in (*declared.select(ml.types.Dataset), *declared.select(ml.FeatureView), *declared.select(ml.types.TrainingSet))
    ]
    return {node.key: len(find_stale(node, platform)) for node in nodes if node.edges}


def test_an_erased_entity_leaves_nothing_in_the_lake_the_catalog_or_files_alongside(made, platform) -> None:
    at, lake = open_stores(platform), Path(platform.lake)
    answered(platform).close()
    at.layouts.load(next(v for v in compiled_projects()[-1].project.select(ml.FeatureView) if v.name == "spending"))
    at.lake.maintain({v.snapshot for v in at.registry.versions()}, older_than=timedelta(0))  # merged files hold rows of several states
    tables = (*DATA, "training_set/returns", "quarantine/orders")
    before = {table: at.lake.read(table) for table in tables}
    hashes = {table: records(platform, table) for table in tables}
    assert "catalog.sqlite" in holding(lake)
    assert any(name.startswith("data/") for name in holding(lake))
    assert online_value(platform, VICTIM) is not None

    plan = erasure.plan_erasure(asked(platform))
    assert plan.rows == {"dataset/orders": 14, "features/spending": 14, "quarantine/orders": 1, "training_set/returns": 14}
    assert plan.versions == ("returned@1",)
    assert (plan.predictions, plan.online, plan.stale_tables) == (1, ("spending",), ("features/takings",))
    assert at.lake.read("dataset/orders").height == before["dataset/orders"].height
    assert records(platform, "dataset/orders") == hashes["dataset/orders"]

    done = erase(platform)
    assert (done.rows, done.versions, done.predictions) == (plan.rows, plan.versions, plan.predictions)
    assert holding(lake) == []
    assert holding(lake, project.MAIL) == []
    assert holding(Path(platform.home) / "layouts") == holding(log_of(platform)) == []
    for table in tables:
        rows = at.lake.read(table)
        kept = before[table].filter(~pl.any_horizontal(pl.col(pl.String).str.contains(VICTIM)))
        assert_frame_equal(rows, kept, check_row_order=False)
    assert online_value(platform, VICTIM) is None
    assert online_value(platform, "c1") is not None
    assert [r["key"]["customer"] for r in read_log(log_of(platform), project.START.date(), project.START.date()).to_dicts()] == ["c1", "c2"]
    changed = {table: [p for p in hashes[table] if records(platform, table)[p] != hashes[table][p]] for table in tables}
    assert len(changed["dataset/orders"]) == len(changed["features/spending"]) == 5
    assert changed["quarantine/orders"] == ["2024-01-03"]
    assert changed["features/takings"] == []


def test_tables_with_the_key_stay_current_and_the_others_are_rebuilt(made, platform, run, tmp_path) -> None:
    assert set(stale_tables(platform).values()) == {0}
    erasure.erase(asked(platform), actor="grace", reason="request 17", instance=made.instance)
    for table, partition in (("dataset/orders", "2024-01-04"), ("training_set/returns", None), ("quarantine/orders", "2024-01-03")):
        key = asset_key(table)
        where = dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None)
        told = made.instance.fetch_materializations(where, limit=1).records[0].asset_materialization
        assert told.tags["dagster/data_version"] == records(platform, table)[partition or ""]
    assert stale_tables(platform) == {"features/spending": 0, "features/takings": 5, "training_set/returns": 0}
    # The recorded content is what the project would make if the source had never known the customer.
    project.GONE[:] = [VICTIM]
    try:
        other = ml.Platform.at(tmp_path / "other")
        runner = run(project.build(other))
        for key in ("dataset/orders", *DATA[1:]):
            runner(key, partitions=project.WHOLE)
        again = Runner(project.build(platform), made.instance)
        again("features/takings", partitions=project.WHOLE)
    finally:
        project.GONE.clear()
    for table in DATA:
        assert records(platform, table) == records(other, table)
        inputs = [{k: r.inputs for k, r in open_stores(p).lake.records(table).items()} for p in (platform, other)]
        assert inputs[0] == inputs[1]


def test_the_lake_continues_after_an_erasure_and_states_before_the_entity_stay(run, platform) -> None:
    runner = run(project.build(platform))
    runner("dataset/orders", partitions="2024-01-01")
    early = open_stores(platform).lake.snapshot()
    first = open_stores(platform).lake.read("dataset/orders")
    runner("dataset/orders", partitions=project.WHOLE)
    done = erase(platform)
    at = open_stores(platform)
    assert early not in done.states
    assert_frame_equal(at.lake.read("dataset/orders", snapshot=early), first)
    for state in done.states:
        with pytest.raises(Exception, match="."):
            at.lake.read("dataset/orders", snapshot=state)
    customers = at.lake.read("dataset/orders")["customer"]
    assert (customers.min(), customers.max()) == ("c0", "c8")
    runner("dataset/orders", "features/spending", partitions=project.WHOLE)  # the source still knows the customer
    found = at.lake.connections.cursor().execute(f"SELECT count(*) FROM lake.dataset.orders WHERE customer = '{VICTIM}'").fetchone()
    assert found == (14,)
    assert erase(platform).rows["dataset/orders"] == 14
    assert holding(Path(platform.lake)) == []


def test_the_log_says_who_and_why_and_is_never_changed(made, platform) -> None:
    erase(platform)
    log = open_erasure_log(platform.registry)
    begun, done = log.list()
    assert (begun.state, done.state, done.actor, done.reason) == ("begun", "done", "grace", "request 17")
    assert done.entity.startswith("sha256:")
    assert done.facts["rows"]["dataset/orders"] == 14
    assert done.facts["versions"] == ["returned@1"]
    erasure.erase(asked(platform), actor="grace", reason="again", keep_key=True)
    assert log.list()[-1].entity == f"customer={VICTIM}"
    assert log.list()[-1].facts["rows"] == {}
    engine = sa.create_engine(platform.registry)
    with engine.connect() as connection, pytest.raises(sa.exc.IntegrityError, match="append-only"):
        connection.execute(sa.text("DELETE FROM mlops_erasures"))
    engine.dispose()


def test_only_some_views_and_what_they_are_made_from(made, platform) -> None:
    plan = erasure.plan_erasure(asked(platform, views=("spending",)))
    assert set(plan.rows) == {"dataset/orders", "features/spending", "quarantine/orders"}
    with pytest.raises(ml.DefinitionError, match="there is no feature view 'spendin'(.|\n)*did you mean 'spending'"):
        asked(platform, views=("spendin",))
    with pytest.raises(ml.DefinitionError, match="no entity is named"):
        asked(platform, entity={})
    assert erasure.plan_erasure(asked(platform, entity={"customer": "nobody"})).rows == {}


def test_a_state_that_a_running_step_reads_is_waited_for(made, platform) -> None:
    at = open_stores(platform)
    with at.lake.lease_snapshot() as state:
        with pytest.raises(ml.errors.LakeError, match=f"process {os.getpid()} reads snapshot {state}(.|\n)*run the same command again"):
            erase(platform)
        assert VICTIM in at.lake.read("dataset/orders", snapshot=state)["customer"]
        assert VICTIM not in at.lake.read("dataset/orders")["customer"]
    assert erase(platform).rows["dataset/orders"] == 14  # as the first attempt found
    assert holding(Path(platform.lake)) == []


def test_undeclared_tables_and_numbers(run, platform) -> None:
    run(project.build(platform))
    lake = open_stores(platform).lake
    lake.write("dataset/plain", pl.DataFrame({"customer": [41, 42, 420], "v": [1.0, 2.0, 3.0]}), [Partition("")], key=("customer",))
    before = records(platform, "dataset/plain")
    assert erase(platform, entity={"customer": "42"}).rows == {"dataset/plain": 1}
    assert lake.read("dataset/plain")["customer"].sort().to_list() == [41, 420]
    assert records(platform, "dataset/plain") != before
    again = lake.write("dataset/plain", lake.read("dataset/plain"), [Partition("")], key=("customer",))
    assert again.changed == ()  # the record says what is there


def test_pushed_rows_go_while_others_are_appended(tmp_path) -> None:
    folder, day = tmp_path / "push" / "orders", round(project.START.timestamp()) * US
    log = PushLog(folder)
    columns = {"customer": ["c1", VICTIM, "c2"], "at": [day, day + 1, day + 2], "spent": [1.0, 2.0, 3.0]}
    log.append("both", day, columns, columns["at"])
    log.append("theirs", day, {"customer": [VICTIM], "at": [day], "spent": [float("nan")]}, [day])
    sizes = [path.stat().st_size for path in sorted(folder.rglob("*.jsonl"))]
    assert erase_pushes(folder, ENTITY, dry_run=True) == 2
    assert holding(folder) != []
    assert erase_pushes(folder, ENTITY) == 2
    assert holding(folder) == []
    assert [path.stat().st_size for path in sorted(folder.rglob("*.jsonl"))] == sizes  # whoever appends has not lost his place
    log.append("later", day + 5, {"customer": ["c3"], "at": [day], "spent": [4.0]}, [day])
    types = {"customer": pl.String(), "at": pl.Datetime("us", "UTC"), "spent": pl.Float64()}
    rows = read_pushed_rows(folder, project.START.date(), project.START.date(), types)
    assert rows["customer"].to_list() == ["c1", "c2", "c3"]
    assert erase_pushes(folder, ENTITY) == 0


def test_files_of_other_shapes_are_found_too(run, platform) -> None:
    run(project.build(platform))
    lake = open_stores(platform).lake
    lake.write("dataset/shape", pl.DataFrame({"customer": [VICTIM, "c1"]}), [Partition("")])
    lake.write("dataset/shape", pl.DataFrame({"k": [1], "v": [2]}), [Partition("")])  # another shape: the key is in older states only
    lake.write("dataset/typed", pl.DataFrame({"customer": [7, 8]}), [Partition("")])
    lake.write("dataset/typed", pl.DataFrame({"customer": [[1], [2]]}), [Partition("")])
    plan = erasure.plan_erasure(asked(platform))
    assert (plan.rows, len(plan.states)) == ({}, 1)
    erase(platform)
    assert holding(Path(platform.lake)) == []
    assert lake.read("dataset/shape").to_dicts() == [{"k": 1, "v": 2}]
    assert len(erasure.plan_erasure(asked(platform, entity={"customer": "7"})).states) == 1


def mlops(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return run_mlops([*arguments, "-f", "tests/projects/customers.py"], cwd=ROOT, env=clean_environment(home, **environment))


POINTS = {
    "after the rows are deleted": "mlops_assets.stores.lake.erasure:Erasure.rewrite",
    "after the files are written anew": "mlops_assets.stores.lake.erasure:Erasure.expire",
    "after the states are given up": "mlops_assets.stores.lake.erasure:Erasure.vacuum",
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again_it_ends_as_if_undisturbed(point, made, platform, tmp_path) -> None:
    home = Path(platform.home)
    command = ("features", "erase", "--entity", f"customer={VICTIM}", "--reason", "request 17", "--yes")
    killed = mlops(home, *command, KILL_AT=POINTS[point])
    assert killed.returncode == -9, killed.stdout + killed.stderr
    again = mlops(home, *command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert holding(Path(platform.lake)) == []
    assert "dataset/orders: 14 row(s) erased" in again.stdout
    assert "model versions that can no longer be reproduced: returned@1" in again.stdout
    assert [record.state for record in open_erasure_log(platform.registry).list()] == ["begun", "begun", "done"]
    assert stale_tables(platform) == {"features/spending": 0, "features/takings": 5, "training_set/returns": 0}
    shutil.rmtree(tmp_path / "home")


def test_without_yes_the_command_only_says_what_it_would_do(made, platform) -> None:
    command = ("features", "erase", "--entity", f"customer={VICTIM}", "--reason", "request 17")
    shown = mlops(Path(platform.home), *command)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "training_set/returns: 14 row(s) to erase" in shown.stdout
    assert "nothing was changed; pass --yes to erase" in shown.stdout
    assert open_stores(platform).lake.read("dataset/orders").filter(customer=VICTIM).height == 14
    assert open_erasure_log(platform.registry).list() == []
    wrong = mlops(Path(platform.home), "features", "erase", "--entity", "customer", "--reason", "x")
    assert wrong.returncode == 1
    assert "--entity 'customer' is not KEY=VALUE" in wrong.stderr


@pytest.mark.parametrize("change", [lambda line: line, lambda line: line.replace(b"1.5", b"2.5")], ids=["sound", "damaged"])
def test_a_line_that_loses_a_row_keeps_its_checksum_right_or_wrong(tmp_path, change) -> None:
    log = PushLog(tmp_path)
    log.append("one", US, {"customer": ["c1", VICTIM], "amount": [1.5, 1.5]}, [US, US])
    path = next(tmp_path.glob("*/*.jsonl"))
    path.write_bytes(change(path.read_bytes()))
    assert erase_pushes(tmp_path, ENTITY) == 1
    types, unread = {"customer": pl.String(), "amount": pl.Float64()}, []
    rows = read_pushed_rows(tmp_path, date(1970, 1, 1), date(1970, 1, 1), types, unread)
    damaged = change(b"1.5") != b"1.5"
    assert (rows["customer"].to_list(), len(unread)) == (([], 1) if damaged else (["c1"], 0))
    assert VICTIM.encode() not in path.read_bytes()
    assert erase_pushes(tmp_path, {"customer": "c1"}) == 1
