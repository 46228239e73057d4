"""Trials in several processes: at once, as exact and as resumable as one after the other, and nothing of them outlives the training."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import mlops_assets as ml
from mlops_assets.compute.training.split import sort_canonically, split_rows
from mlops_assets.stores.platform.stores import open_stores
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
    line = [
        sys.executable,
        "-m",
        "mlops_assets.cli.main",
        "run",
        "-f",
        "tests/projects/searching_apart.py",
        "--select",
        '+key:"model/buys_candidate"',
    ]
    more = {"SEARCH_APART": "1", "PYTHONWARNINGS": "ignore", **({} if kill else {MEETING: str(folder)})}
    if kill:
        (folder / "lonely").mkdir()
        more[MEETING] = str(folder / "lonely")
    process = subprocess.Popen(line, cwd=ROOT, env=clean_environment(home, **more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not kill:
        return process.wait()
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
