"""Trials in several processes: at once, as exact and as resumable as one after the other, and nothing of them outlives the training."""

import dataclasses
import importlib
import io
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import mlops_assets as ml
from mlops_assets.compute.training.search import Trial
from mlops_assets.compute.training.split import sort_canonically, split_rows
from mlops_assets.compute.user_code.source_slice import extract_source
from mlops_assets.errors import InstallationError
from mlops_assets.orchestrate.training.trial import SearchContext
from mlops_assets.orchestrate.training.trial_process import _read_requests, _to_public_error, start_trial_processes
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.tracker.tracker import Run
from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment, metadata
from tests.orchestrate.training.test_search import ASSETS, trials_of
from tests.projects import searching, searching_apart
from tests.projects.searching_apart import MEETING, SEARCH

WORKER = "mlops_assets.orchestrate.training.trial_process"


def nouns(search: ml.Search) -> list:
    return [searching_apart.people, searching_apart.examples, dataclasses.replace(searching_apart.buys, search=search)]


def test_parallel_trials_score_like_a_direct_fit(run, platform, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(MEETING, str(tmp_path))
    search = dataclasses.replace(SEARCH, trials=4)
    shown = metadata(run(ml.build_definitions(nouns(search), platform=platform))(*ASSETS), "model/buys")
    trials = trials_of(platform)
    assert [trial.status for trial in trials] == ["finished"] * 4
    pids = {trial.params["pid"] for trial in trials}
    assert len(pids) == 2
    assert str(os.getpid()) not in {str(pid) for pid in pids}
    rows = sort_canonically(open_stores(platform).lake.read("training_set/examples"), None)
    parts = split_rows(rows, tuple(f"x{i}" for i in range(6)), "bought")
    for trial in trials:
        fitted = LogisticRegression(C=trial.params["C"]).fit(parts["train"].X, parts["train"].y)
        loss = log_loss(parts["validation"].y, fitted.predict_proba(parts["validation"].X))
        assert trial.metrics["validation/neg_log_loss"] == pytest.approx(-loss, abs=1e-12)
    assert len(shown["trials"].records) == 4
    assert shown["search"].startswith("![search](data:image/png;base64,")


def test_failing_values_are_recorded_and_the_search_continues(run, platform) -> None:
    search = ml.Search({"penalty": (9, 0, 1)}, trials=3, sampler="grid", processes=2)
    run(ml.build_definitions(nouns(search), platform=platform))(*ASSETS)
    assert [(t.status, t.error) for t in trials_of(platform)] == [
        ("failed", "ValueError: no such penalty"),
        ("finished", ""),
        ("finished", ""),
    ]


def test_a_killed_process_is_named_and_the_search_continues_with_the_others(run, platform, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(MEETING, str(tmp_path))
    (tmp_path / "die").touch()
    runner = run(ml.build_definitions(nouns(dataclasses.replace(SEARCH, trials=4)), platform=platform))
    assert "died (signal 9)" in runner.error(*ASSETS)
    (tmp_path / "open").touch()
    assert runner("model/buys").success
    assert {t.tags["trial"] for t in trials_of(platform) if t.status == "finished"} == {"0", "1", "2", "3"}


def test_a_killed_training_takes_its_processes_with_it_and_is_resumed_exactly(tmp_path) -> None:
    found = {}
    for name in ("whole", "killed"):
        home, folder = tmp_path / name, tmp_path / f"{name}_meeting"
        folder.mkdir()
        if name == "killed":
            assert training(home, folder, kill=True) != 0
            (folder / "open").touch()
        assert training(home, folder, kill=False) == 0
        finished = [trial for trial in trials_of(ml.Platform.at(home)) if trial.status == "finished"]
        found[name] = [(trial.params["C"], trial.metrics["validation/neg_log_loss"]) for trial in finished]
    assert found["killed"] == found["whole"]
    assert len(found["whole"]) == 8


def training(home: Path, folder: Path, *, kill: bool) -> int:
    """Run the project; or kill it as soon as a trial waits, and see that its workers end."""
    arguments = ["run", "-f", "tests/projects/searching_apart.py", "--select", '+key:"model/buys_candidate"']
    more = {"SEARCH_APART": "1", "PYTHONWARNINGS": "ignore", **({} if kill else {MEETING: str(folder)})}
    if kill:
        (folder / "lonely").mkdir()
        more[MEETING] = str(folder / "lonely")
    environment = clean_environment(home, **more)
    if not kill:
        return run_mlops(arguments, cwd=ROOT, env=environment).returncode
    line = [sys.executable, "-m", "mlops_assets.cli.main", *arguments]
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    while process.poll() is None and len(workers) < 2:
        time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if child.is_running() and WORKER in " ".join(child.cmdline())]
    process.kill()
    psutil.wait_procs(workers, timeout=60)
    assert [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE] == []
    return process.wait()


def test_a_function_that_no_other_process_can_call_is_refused(run, platform, tmp_path) -> None:
    search = ml.Search({"C": (1.0, 2.0)}, trials=2, processes=2)
    runner = run(ml.build_definitions(searching.nouns(search, tmp_path / "calls"), platform=platform))
    assert "'buys' closes over 'calls', whose value is not in the source" in runner.error(*ASSETS)


READING = """
from pathlib import Path

from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from tests.projects.searching_apart import SEARCH, examples
from tests.projects.searching_apart import Strength

TABLE = Path("{table}").read_text()


@ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], search=SEARCH)
def buys(train: ml.Split, params: Strength) -> LogisticRegression:
    return LogisticRegression(C=params.C + len(TABLE)).fit(train.X, train.y)
"""


def test_a_module_that_the_process_of_a_trial_cannot_import_is_named_with_its_error(run, platform, tmp_path, monkeypatch) -> None:
    table = tmp_path / "table.csv"
    table.touch()
    (tmp_path / "reads_a_table.py").write_text(READING.format(table=table))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = importlib.import_module("reads_a_table").buys
    table.unlink()
    text = run(ml.build_definitions([searching_apart.people, searching_apart.examples, model], platform=platform)).error(*ASSETS)
    assert f"'buys' cannot be imported in the process of a trial: FileNotFoundError: [Errno 2] No such file or directory: '{table}'" in text
    assert f'(reads_a_table.py: TABLE = Path("{table}").read_text())' in text
    assert "Hint: its modules must be importable in a new process" in text


def test_an_error_outside_of_the_model_s_function_arrives_as_it_is(platform, tmp_path) -> None:
    run = Run("a" * 32, "buys", "", "", datetime.now(UTC), None, None, {}, {}, {})
    context = SearchContext(SEARCH, "neg_log_loss", run, "", {})
    broken, source = dataclasses.replace(platform, registry=f"sqlite:///{tmp_path}"), extract_source(searching_apart.buys.function.function)
    with start_trial_processes(context, broken, source, {}) as run_round, pytest.raises(InstallationError) as raised:
        run_round([Trial(0, {"C": 1.0}), Trial(1, {"C": 2.0})], [])
    assert raised.value.message == f"the registry 'sqlite:///{tmp_path}' failed: unable to open database file"
    assert raised.value.hint == "make its folder writable, or set MLOPS_HOME"


def test_a_message_that_cannot_be_read_is_an_error_and_no_endless_wait() -> None:
    requests = SimpleQueue()
    _read_requests(io.BytesIO(b"cnowhere\nLevel\n."), requests)
    error = requests.get_nowait()
    assert isinstance(error, ModuleNotFoundError)
    sent = _to_public_error(error)
    assert isinstance(sent, InstallationError)
    assert "outside of the model's function: ModuleNotFoundError: No module named 'nowhere'" in sent.message
