"""Runs are recorded point by point, whatever is killed, locked or full; on both kinds of database."""

import json
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.errors import DataError, InstallationError, RegistryError
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.tracker.run_batch import Batch
from mlops_assets.stores.tracker.tracker import Run, SqlTracker, open_tracker
from mlops_assets.stores.tracker.writer import RunWriter

NOW = datetime(2024, 1, 1, tzinfo=UTC)
EVIL = "<b>x</b>'; DROP TABLE mlops_runs; --"


def platform(home: Path, url: str | None = None) -> ml.Platform:
    local = ml.Platform.at(home)
    return local if url is None else ml.Platform(local.home, local.lake, url, local.artifacts, local.online)


def going(tracker: SqlTracker, identity: str = "r", **more) -> RunWriter:
    """Record a run as running, and return what writes to it."""
    plain = {"fingerprint": "", "dagster_run_id": "", "snapshot": None, "params": {}, "metrics": {}, "record": {}}
    tracker.add(Run(identity, "m", started_at=NOW, ended_at=None, status="running", kind="run", **plain | more))
    return RunWriter(tracker, identity)


@pytest.fixture
def there(url, tmp_path) -> ml.Platform:
    return platform(tmp_path / "home", url)


def of(there: ml.Platform) -> SqlTracker:
    return open_stores(there).tracker


def test_a_notebook_logs_everything_and_finds_it_again(there) -> None:
    from matplotlib.figure import Figure

    class Plotly:
        def to_html(self, *, full_html: bool, include_plotlyjs: bool) -> str:
            return f"<html>{full_html}{include_plotlyjs}</html>"

    with ml.start_run("lateness", name="first", params={"depth": 3}, tags={"team": "x"}, platform=there) as outer:
        ml.runs.log_params({"rate": 0.1, "columns": ["a", "b"], "odd": float("nan"), "seed": np.int64(7)})
        for step in range(3):
            ml.runs.log_metric("loss", 1.0 / (step + 1), step=step)
        ml.runs.log_metric("auc", np.float32(0.5))
        ml.runs.log_artifact("notes/a.txt", b"hello")
        ml.runs.log_artifact("facts.json", {"a": [1]})
        ml.runs.log_figure("curve", Figure())
        ml.runs.log_figure("plotly", Plotly())
        with ml.start_run("lateness", platform=there) as inner:
            ml.runs.log_metric("auc", 0.9)
        assert of(there).get(outer.id).status == "running"
        assert of(there).get(inner.id).status == "finished"
    run = of(there).get(outer.id)
    assert (run.status, run.kind, run.model, run.name, run.tags) == ("finished", "run", "lateness", "first", {"team": "x"})
    assert run.params == {"depth": 3, "rate": 0.1, "columns": ["a", "b"], "odd": "nan", "seed": 7}
    assert run.metrics == {"auc": 0.5, "loss": 1 / 3}
    assert run.ended_at > run.started_at
    assert run.record["machine"]["cpus"] >= 1
    assert of(there).get(inner.id).parent_id == outer.id
    assert of(there).curves(outer.id)["loss"].values.tolist() == [1.0, 0.5, 1 / 3]
    files = {one.name: one for one in of(there).artifacts(outer.id)}
    assert list(files) == ["curve.png", "facts.json", "notes/a.txt", "plotly.html"]
    assert {one.media for one in files.values()} == {"image/png", "application/json", "text/plain", "text/html"}
    store = open_stores(there).artifacts
    assert store.get(files["notes/a.txt"].sha256) == b"hello"
    assert json.loads(store.get(files["facts.json"].sha256)) == {"a": [1]}
    assert store.get(files["curve.png"].sha256).startswith(b"\x89PNG")
    assert store.get(files["plotly.html"].sha256) == b"<html>TrueTrue</html>"


def test_outside_of_a_run_logging_says_what_to_do(there) -> None:
    for call in (
        lambda: ml.runs.log_metric("a", 1),
        lambda: ml.runs.log_params({}),
        lambda: ml.runs.log_artifact("a", b""),
        lambda: ml.runs.log_figure("a", None),
    ):
        with pytest.raises(RegistryError, match=r"log_\w+ was called outside of a run\nHint: call it within a model function"):
            call()
    with ml.start_run("e", platform=there) as run:
        pass
    with pytest.raises(RegistryError, match="has ended"):
        run.log_metric("a", 1)


def test_what_is_raised_ends_the_run_as_failed(there) -> None:
    with pytest.raises(ValueError, match="boom"), ml.start_run("e", platform=there) as run:
        ml.runs.log_metric("auc", 0.1)
        raise ValueError("boom \0 \ud800")
    found = of(there).get(run.id)
    assert (found.status, found.metrics) == ("failed", {"auc": 0.1})
    assert found.error.startswith("ValueError: boom")
    with ml.start_run("e", platform=there) as pruned:
        pruned.end_as("pruned", "too slow")
    assert of(there).get(pruned.id).status == "pruned"


POINTS = st.lists(st.tuples(st.integers(-5, 5), st.floats(width=32) | st.just(float("nan"))), min_size=1, max_size=30)


@given(points=POINTS, cuts=st.sets(st.integers(0, 30)))
@settings(max_examples=25, deadline=None)
def test_steps_out_of_order_and_repeated_are_kept_however_they_are_flushed(points, cuts, tmp_path_factory) -> None:
    tracker = open_tracker(f"sqlite:///{tmp_path_factory.mktemp('points') / 'r.sqlite'}")
    writer = going(tracker)
    for i, (step, value) in enumerate(points):
        if i in cuts:
            writer.flush()
        writer.add_metric("m", value, step)
    writer.flush()
    wanted = [value for _, value in sorted(points, key=lambda p: p[0])]
    curve = tracker.curves("r")["m"]
    np.testing.assert_array_equal(curve.values, wanted)
    assert curve.steps.tolist() == sorted(step for step, _ in points)
    assert np.array_equal([tracker.get("r").metrics["m"]], [wanted[-1]], equal_nan=True)
    finite = [v for v in wanted if np.isfinite(v)]
    row = tracker.frame("lowest.m = 0 or lowest.m != 0")
    assert row.height == bool(finite)
    if finite:
        assert tracker.frame(f"lowest.m >= {min(finite)!r} and highest.m <= {max(finite)!r}").height == 1
    writer._stop.set()


def test_values_that_are_not_finite_are_kept_as_such(url) -> None:
    tracker = open_tracker(url)
    writer = going(tracker)
    for name, value in (("a", float("nan")), ("b", float("inf")), ("c", -float("inf"))):
        writer.add_metric(name, value, None)
    writer.flush()
    assert {name: str(value) for name, value in tracker.get("r").metrics.items()} == {"a": "nan", "b": "inf", "c": "-inf"}
    assert [r.id for r in tracker.search("metrics.b = 'inf'")] == ["r"]
    assert tracker.search("metrics.b > 0") == []


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "a\0b", "../x", "a/../b", "..\\x", "/etc", "аuc", "ａuc", "a\nb", " a", "a ", "", None, 3],
    ids=lambda n: ascii(n)[:12],
)
def test_names_that_cannot_be_are_refused_with_what_can(name, tmp_path) -> None:
    there = platform(tmp_path)
    with ml.start_run("e", platform=there) as run:
        for call in (
            lambda: ml.runs.log_metric(name, 1),
            lambda: ml.runs.log_params({name: 1}),
            lambda: run.log_tags({name: "x"}),
            lambda: ml.runs.log_artifact(name, b"x"),
            lambda: ml.runs.log_figure(name, None),
        ):
            with pytest.raises(DataError, match=r"cannot be named [^$]*Hint: use (printable ASCII|letters)"):
                call()
        with pytest.raises(DataError, match="experiment cannot be named"), ml.start_run(name, platform=there):
            pass
    found = of(there).get(run.id)
    assert (found.metrics, found.params, found.tags, of(there).artifacts(run.id)) == ({}, {}, {}, [])


def test_values_that_cannot_be_are_refused(tmp_path) -> None:
    with ml.start_run("e", platform=platform(tmp_path)):
        for value in ("0.5", None, [1], 1j, "nan"):
            with pytest.raises(DataError, match="metric 'a' has the value"):
                ml.runs.log_metric("a", value)
        for step in (1.5, 2**63, "1"):
            with pytest.raises(DataError, match="metric 'a' cannot have the step"):
                ml.runs.log_metric("a", 1, step=step)
        with pytest.raises(DataError, match="parameter 'p' has the value"):
            ml.runs.log_params({"p": "a\0b"})
        with pytest.raises(DataError, match="at most 20000"):
            ml.runs.log_params({"p": "x" * 30_000})


def test_links_are_refused_and_folders_are_stored_whole(tmp_path) -> None:
    there, folder = platform(tmp_path / "home"), tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.txt").write_text("a")
    (folder / "b.bin").write_bytes(b"b")
    with ml.start_run("e", platform=there) as run:
        ml.runs.log_artifact("out", folder)
        (folder / "secret").symlink_to("/etc/passwd")
        for path in (folder, folder / "secret"):
            with pytest.raises(DataError, match="symbolic link"):
                ml.runs.log_artifact("other", path)
        (tmp_path / "linked").symlink_to(folder)
        with pytest.raises(DataError, match="symbolic link"):
            ml.runs.log_artifact("other", tmp_path / "linked")
        with pytest.raises(DataError, match="has no file"):
            ml.runs.log_artifact("other", tmp_path / "nothing")
    assert "out/inner/a.txt" in [one.name for one in of(there).artifacts(run.id)]
    assert "secret" not in {Path(one.name).name for one in of(there).artifacts(run.id)}


def test_of_what_is_killed_only_the_unwritten_rest_is_lost(there, tmp_path) -> None:
    code = """
import os, signal, sys
import mlops_assets as ml
from mlops_assets.values.platform import Platform
local = Platform.at(sys.argv[1])
there = Platform(local.home, local.lake, sys.argv[2], local.artifacts, local.online)
with ml.start_run("e", platform=there) as run:
    for step in range(100):
        ml.runs.log_metric("a", step, step=step)
    run.flush()
    ml.runs.log_metric("a", 1000, step=1000)
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code, there.home, there.registry], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    tracker, run_id = of(there), ended.stdout.strip()
    assert [r.id for r in tracker.search("status = 'killed'")] == [run_id]
    found = tracker.get(run_id)
    assert (found.status, found.metrics, found.ended_at) == ("killed", {"a": 99.0}, None)
    assert "process has ended" in found.error
    assert tracker.curves(run_id)["a"].steps.tolist() == list(range(100))
    with ml.start_run("e", platform=there) as living:
        assert tracker.get(living.id).status == "running"


def test_what_waits_is_written_by_count_by_time_and_at_exit(url, tmp_path) -> None:
    tracker = open_tracker(url)
    going(tracker)
    by_count = RunWriter(tracker, "r", max_points=10, flush_seconds=3600)
    for step in range(25):
        by_count.add_metric("a", step, step)
    assert tracker.curves("r")["a"].steps.size == 20
    by_time = RunWriter(tracker, "r", flush_seconds=0.05)
    by_time.add_metric("b", 1, None)
    deadline = time.monotonic() + 60
    while "b" not in tracker.get("r").metrics:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    code = """
import sys
from mlops_assets.stores.tracker.writer import RunWriter
from mlops_assets.stores.tracker.tracker import open_tracker
RunWriter(open_tracker(sys.argv[1]), "r").add_metric("c", 3, None)
"""
    subprocess.run([sys.executable, "-c", code, url], check=True)
    assert tracker.get("r").metrics["c"] == 3.0
    for writer in (by_count, by_time):
        writer.flush()
        writer._stop.set()


def test_threads_and_forked_processes_lose_nothing(tmp_path) -> None:
    there = platform(tmp_path)
    with ml.start_run("e", platform=there) as run:
        ml.runs.log_metric("before", 1)
        threads = [threading.Thread(target=lambda n=n: [run.log_metric(f"t{n}", i) for i in range(500)]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        code = f"""
import os, mlops_assets as ml
with ml.start_run("e", platform=ml.Platform.at({str(tmp_path)!r})) as run:
    ml.runs.log_metric("before", 1)
    child = os.fork()
    if not child:
        ml.runs.log_metric("of the child", 2)
        os._exit(0)
    os.waitpid(child, 0)
print(run.id)
"""
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    curves = of(there).curves(run.id)
    assert {name: curve.values.size for name, curve in curves.items()} == {"before": 1} | {f"t{n}": 500 for n in range(4)}
    forked = of(there).curves(done.stdout.strip())
    assert {name: curve.values.size for name, curve in forked.items()} == {"before": 1, "of the child": 1}


def test_a_flush_that_fails_keeps_what_it_had(tmp_path, monkeypatch) -> None:
    tracker = open_tracker(f"sqlite:///{tmp_path / 'r.sqlite'}")
    writer = going(tracker)
    writer.add_metric("a", 1, 0)
    with monkeypatch.context() as broken:
        broken.setattr(SqlTracker, "write_batch", lambda *_: (_ for _ in ()).throw(InstallationError("locked", hint="wait")))
        with pytest.raises(InstallationError):
            writer.flush()
    writer.add_metric("a", 2, 1)
    writer.flush()
    assert tracker.curves("r")["a"].values.tolist() == [1.0, 2.0]
    writer._stop.set()


def test_a_full_disk_leaves_nothing_half_written(tmp_path) -> None:
    code = """
import resource, signal, sys
import mlops_assets as ml
there = ml.Platform.at(sys.argv[1])
with ml.start_run("e", platform=there) as run:
    ml.runs.log_artifact("small", b"small")
    run.flush()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))
    try:
        ml.runs.log_artifact("large", b"x" * 8_000_000)
    except ml.errors.InstallationError as error:
        print(error)
print(run.id)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *told, run_id = done.stdout.splitlines()
    assert "artifacts cannot be written" in told[0]
    assert told[1].startswith("Hint: ")
    assert [one.name for one in of(platform(tmp_path)).artifacts(run_id)] == ["small"]
    assert len([p for p in (tmp_path / "artifacts").rglob("*") if p.is_file() and p.name != "lock"]) == 1


def test_processes_that_start_at_once_on_a_fresh_file_all_record(tmp_path) -> None:
    code = """
import sys, mlops_assets as ml
with ml.start_run("e", platform=ml.Platform.at(sys.argv[1])):
    ml.runs.log_metric("a", 1)
"""
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0, 0], told
    assert of(platform(tmp_path)).frame()["status"].to_list() == ["finished"] * 4


def test_only_a_finished_training_is_found_by_what_decides_it(url) -> None:
    tracker = open_tracker(url)
    for status in ("running", "failed", "killed", "pruned"):
        going(tracker, status, fingerprint="f")
        tracker.add(Run(f"{status}2", "m", "f", "", NOW, NOW, 1, {}, {}, {}, status=status))
    tracker.add(Run("trial", "m", "f", "", NOW, NOW, 1, {}, {}, {}, kind="trial"))
    assert tracker.find("m", "f") is None
    tracker.add(Run("good", "m", "f", "", NOW, NOW, 7, {}, {"a": 1.0}, {}))
    assert tracker.find("m", "f").id == "good"
    assert ("good", "m", 7) in tracker.pinned_snapshots()
    assert "failed2" not in [run_id for run_id, _, _ in tracker.pinned_snapshots()]


def test_a_write_to_a_run_that_is_not_there_is_refused(url) -> None:
    with pytest.raises(RegistryError, match="no run 'x' to write to"):
        open_tracker(url).write_batch("x", Batch(params={"a": 1}))
