"""A real service: swapped under load, killed, filled up, stopped; nothing that was answered is lost, and nothing is left behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Event, Thread

import polars as pl
import psutil
import pytest

from mlops_assets.errors import MissingExtraError, ServiceError
from mlops_assets.serving.formats.packaging import OnDemandSource, pack
from mlops_assets.serving.http import control
from mlops_assets.serving.http.control import start, status, stop
from mlops_assets.serving.http.service_folder import ServiceFolder, read_json
from mlops_assets.serving.logs.inference_log import read_log
from mlops_assets.serving.logs.request_log import list_hour_files, read_request_file
from mlops_assets.stores.registry.records import CandidateRecord
from tests.serving.support import CLOCK, EVENT, Client, Stage, estimator, facts, load, offline, processes_of, row, wait_for


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Three versions, the first the champion, and no online features, so that offline predictions are easily made."""
    made = Stage(tmp_path_factory.mktemp("home"))
    for seed in range(3):
        made.add(seed)
    made.promote(1)
    yield made
    stop(made.spec().home, "lateness_api", timeout=5)
    assert processes_of(made.spec().folder.path) == []


@pytest.fixture
def running(stage):
    """The service, running with the first version; whatever a test did to it is repaired."""
    stage.promote(1)
    return start(stage.spec())


def logged(stage) -> list[str]:
    return read_log(stage.log, EVENT.date(), EVENT.date())["id"].to_list()


def requests(stage) -> Counter[str]:
    """Return status → requests that the workers have written to their log."""
    folder, counted = stage.spec().folder.requests, Counter()
    for line in (line for files in list_hour_files(folder).values() for path, _ in files for line in read_request_file(path)):
        counted.update(line.codes)
    return counted


def now(stage):
    return status(stage.spec().home, "lateness_api")


def all_answer(stage, version: int) -> bool:
    workers = now(stage).workers
    return len([w for w in workers if w.running and w.version == version]) == stage.spec().workers


def test_start_waits_for_the_champion_on_every_worker_and_is_idempotent(stage, running) -> None:
    assert running.running
    assert running.wanted == "running"
    assert running.champion == 1
    assert running.problem == ""
    assert [(w.version, w.digest, w.predictor, w.running) for w in running.workers] == [(1, "digest-0-0", "compiled", True)] * 2
    again = start(stage.spec())
    assert again.url == running.url
    assert [w.pid for w in again.workers] == [w.pid for w in running.workers]
    client = Client(running.url)
    assert client("GET", "/readyz")[0] == 200
    assert client("POST", "/predict", row(distance="x"))[0] == 422
    assert client("GET", "/metrics")[1].count(b"mlops_worker_version{") == 2
    assert client.predict(row(2))["predictions"][0]["missing"] == ["late_share", "mean_delay"]
    client.close()


def test_workers_count_answered_and_refused_requests(stage, running) -> None:
    client, before = Client(running.url), requests(stage)
    for _ in range(5):
        client.predict(row())
    for _ in range(3):
        assert client("POST", "/predict", row(distance="x"))[0] == 422
    client.close()
    wait_for(lambda: requests(stage) - before >= Counter({"200": 5, "422": 3}))


def test_connections_are_shared_between_the_workers(stage, running) -> None:
    clients = [Client(running.url) for _ in range(32)]
    ids = {client.predict(row())["predictions"][0]["id"] for client in clients}
    for client in clients:
        client.close()
    rows = read_log(stage.log, EVENT.date(), EVENT.date()).filter(pl.col("id").is_in(ids))
    counts = Counter(rows["worker"].to_list())
    assert set(counts) == {w.pid for w in running.workers}
    assert min(counts.values()) >= 4


def test_ten_swaps_under_load_lose_nothing_and_every_reply_is_its_versions(stage, running) -> None:
    swaps, models = [Swap(1, 0.0)], {version: estimator(seed)[0] for version, seed in stage.seeds.items()}

    def swap() -> None:
        for n in range(10):
            version = (2, 3, 1)[n % 3]
            swaps.append(Swap(version, time.time()))
            stage.promote(version)
            wait_for(lambda version=version: all_answer(stage, version))
            swaps[-1].ended = time.time()
        done.set()

    async def send() -> list:
        sent = await load(running.url, range(5000), connections=8)
        while not done.is_set():
            sent += await load(running.url, range(5000, 5100), connections=8)
        return sent

    before, done = len(logged(stage)), Event()
    swapper = Thread(target=swap)
    swapper.start()
    sent = asyncio.run(send())
    swapper.join()
    assert len(swaps) == 11
    took = [swap.ended - swap.begun for swap in swaps[1:]]
    assert len(sent) >= 5000
    assert [s for s in sent if s.status != 200] == []
    ids = [p["id"] for s in sent for p in s.reply["predictions"]]
    after = logged(stage)
    assert len(ids) == len(sent) == len(after) - before
    assert Counter(after).most_common(1)[0][1] == 1
    assert set(ids) <= set(after)
    assert [w.pid for w in now(stage).workers] == [w.pid for w in running.workers]
    print(f"{len(sent)} requests during 10 swaps, 0 failed; both workers followed in {min(took):.2f} to {max(took):.2f} s")
    assert {s.reply["version"] for s in sent} == {1, 2, 3}
    for s in sent:
        assert s.reply["version"] in possible_versions(swaps, s.begun, s.ended)
    for version, model in models.items():
        mine = [s for s in sent if s.reply["version"] == version]
        for s in mine[:: max(1, len(mine) // 40)]:
            assert s.reply["predictions"][0]["probability"] == pytest.approx(offline(model, row(s.index)), abs=1e-9)


@dataclass
class Swap:
    """A promotion under load: from its first statement until every worker answers with its version."""

    version: int
    begun: float
    ended: float = float("inf")


def possible_versions(swaps: list[Swap], begun: float, ended: float) -> set[int]:
    """Return the versions that a worker may hold while it answers: each until every worker has followed the next swap."""
    replaced = [swap.ended for swap in swaps[1:]] + [float("inf")]
    return {swap.version for swap, end in zip(swaps, replaced, strict=True) if swap.begun <= ended and end >= begun}


def test_every_worker_follows_a_rollback_within_seconds(stage, running) -> None:
    client = Client(running.url)
    stage.promote(2)
    wait_for(lambda: all_answer(stage, 2))
    stage.promote(1)
    begun = time.monotonic()
    wait_for(lambda: all_answer(stage, 1))
    assert time.monotonic() - begun < 10
    assert client.predict(row())["version"] == 1
    client.close()


def test_a_killed_worker_loses_no_answered_prediction_and_comes_back(stage, running) -> None:
    victim = running.workers[0].pid
    failures_before = len(logged(stage))

    def kill() -> None:
        time.sleep(1)
        os.kill(victim, signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    sent = asyncio.run(load(running.url, range(600), connections=8, rate=200))
    killer.join()
    answered = [p["id"] for s in sent if s.status == 200 for p in s.reply["predictions"]]
    assert set(answered) <= set(logged(stage))
    assert len(logged(stage)) >= failures_before + len(answered)
    assert len(answered) >= 600 - 8  # at most what was in flight in the killed process
    print(f"a worker killed under 200 requests/s: {len(answered)} of {len(sent)} answered, all of them in the log")
    wait_for(lambda: all_answer(stage, 1) and now(stage).workers[0].pid != victim)
    assert now(stage).workers[1].pid == running.workers[1].pid
    assert now(stage).problem == ""


def test_counters_of_a_killed_worker_do_not_decrease(stage, running) -> None:
    def total() -> int:
        client = Client(running.url)
        text = client("GET", "/metrics")[1].decode()
        client.close()
        return int(text.split("\nmlops_predictions_total ")[1].split()[0])

    before = total()
    assert before > 0
    for worker in running.workers:
        os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: all_answer(stage, 1) and {w.pid for w in now(stage).workers}.isdisjoint(w.pid for w in running.workers))
    assert total() >= before


def test_a_corrupted_version_never_takes_traffic_and_the_problem_is_reported(stage, running) -> None:
    bad = stage.add(9)
    path = stage.corrupt(bad)
    stage.promote(bad)
    sent = asyncio.run(load(running.url, range(300), rate=200))
    wait_for(lambda: now(stage).problem)
    assert {(s.status, s.reply["version"]) for s in sent} == {(200, 1)}
    assert f"version {bad} cannot be loaded: artifact" in now(stage).problem
    assert [w.pid for w in now(stage).workers if w.running] == [w.pid for w in running.workers]
    with pytest.raises(ServiceError, match=f"does not answer with version {bad}: .*was changed after it was stored"):
        start(stage.spec())
    os.kill(running.workers[0].pid, signal.SIGKILL)  # who comes back has the old version too
    wait_for(lambda: all_answer(stage, 1) and now(stage).workers[0].pid != running.workers[0].pid)
    client = Client(running.url)
    assert client.predict(row())["version"] == 1
    client.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))  # restored from a backup
    wait_for(lambda: all_answer(stage, bad))
    assert now(stage).problem == ""


def test_a_version_that_kills_its_workers_is_abandoned_and_the_old_one_keeps_serving(stage, running) -> None:
    fitted, X = estimator(5)
    deadly = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n" + CLOCK
    artifact = pack(stage.artifacts, fitted, X=X, modules=[OnDemandSource(deadly, "clock")], facts=facts())
    stage.registry.submit(CandidateRecord("lateness", "deadly", "run", artifact, 1, datetime.now(UTC)), [])
    version = stage.registry.register("lateness", {}).version
    stage.promote(version)
    wait_for(lambda: f"version {version} killed the workers that loaded it" in now(stage).problem)
    wait_for(lambda: all_answer(stage, 1))
    client = Client(running.url)
    assert client.predict(row())["version"] == 1
    client.close()
    assert now(stage).workers[1].pid == running.workers[1].pid  # it reached one worker only
    with pytest.raises(ServiceError, match="killed the workers"):
        start(stage.spec())
    stage.promote(2)
    wait_for(lambda: all_answer(stage, 2) and not now(stage).problem)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
def test_a_full_disk_means_no_prediction_and_not_ready_until_there_is_room(stage, running) -> None:
    workers = [psutil.Process(w.pid) for w in running.workers]
    limits = [w.rlimit(psutil.RLIMIT_FSIZE) for w in workers]
    before = len(logged(stage))
    try:
        for worker, (_, hard) in zip(workers, limits, strict=True):
            worker.rlimit(psutil.RLIMIT_FSIZE, (1, hard))
        client = Client(running.url)
        assert client("POST", "/predict", row())[0] == 503
        assert client("GET", "/readyz")[0] == 503
        assert client("GET", "/livez")[0] == 200
    finally:
        for worker, limit in zip(workers, limits, strict=True):
            worker.rlimit(psutil.RLIMIT_FSIZE, limit)
    assert client("GET", "/readyz")[0] == 200
    assert client.predict(row())["version"] == 1
    client.close()
    assert len(logged(stage)) == before + 1


def test_stopping_in_the_middle_of_requests_loses_none(stage, running) -> None:
    until, outcome = Event(), []

    def end() -> None:
        time.sleep(0.7)
        outcome.append(stop(stage.spec().home, "lateness_api"))
        until.set()

    ending = Thread(target=end)
    ending.start()
    sent = asyncio.run(load(running.url, range(1_000_000), connections=8, until=until))
    ending.join()
    answered = [s for s in sent if s.status is not None]
    assert {s.status for s in answered} == {200}
    assert len(answered) > 100
    # What was not answered was refused: no connection was taken and then dropped with a request in it.
    assert [s for s in sent if s.status is None and s.written] == []
    assert {p["id"] for s in answered for p in s.reply["predictions"]} <= set(logged(stage))
    assert (outcome[0].running, outcome[0].wanted, outcome[0].url, outcome[0].problem) == (False, "stopped", None, "")
    assert processes_of(stage.spec().folder.path) == []
    assert stop(stage.spec().home, "lateness_api").wanted == "stopped"


def test_a_killed_supervisor_leaves_no_process_and_is_started_again(stage) -> None:
    spec = replace(stage.spec(), workers=1)
    running = start(spec)
    os.kill(read_json(spec.folder.supervisor)["pid"], signal.SIGKILL)
    wait_for(lambda: processes_of(spec.folder.path) == [])
    gone = now(stage)
    assert (gone.running, gone.wanted, gone.url) == (False, "running", None)
    assert gone.problem == "its supervisor is gone"
    assert start(spec).url == running.url


def test_another_spec_is_a_restart_on_the_same_port(stage) -> None:
    before = now(stage)
    after = start(replace(stage.spec(), workers=1, max_rows=2))
    assert after.url == before.url
    assert len(after.workers) == 1
    assert len(processes_of(stage.spec().folder.path)) == 2
    client = Client(after.url)
    assert client("POST", "/predict", [row()] * 3)[0] == 413
    client.close()


# What cannot start, leaves nothing.


@pytest.fixture
def cold(tmp_path):
    """A platform of its own, whose service does not run."""
    made = Stage(tmp_path / "home")
    made.add(0)
    made.promote(1)
    yield made
    assert processes_of(made.spec().folder.path) == []
    assert not read_json(made.spec().folder.wanted)


def test_a_port_in_use_is_reported(cold) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            start(cold.spec(port=port))
    assert status(cold.spec().home, "lateness_api").wanted == "never started"


def test_a_host_that_is_not_here_is_reported(cold) -> None:
    with pytest.raises(ServiceError, match=r"cannot listen on 192\.0\.2\.1:0"):
        start(cold.spec(host="192.0.2.1"))


def test_no_champion_is_reported(cold) -> None:
    with pytest.raises(ServiceError, match="no champion of 'lateness' in environment 'prod'"):
        start(cold.spec(environment="prod"))


def test_a_log_that_cannot_be_written_is_reported(cold) -> None:
    folder = cold.spec().folder
    folder.path.mkdir(parents=True)
    folder.log.write_text("")
    with pytest.raises(ServiceError, match="the prediction log in .* cannot be written"):
        start(cold.spec())
    assert [path.name for path in folder.path.iterdir()] == ["log"]


def test_a_first_version_that_cannot_be_loaded_is_reported(cold) -> None:
    cold.corrupt(1)
    with pytest.raises(ServiceError, match="does not answer with version 1: .*was changed after it was stored"):
        start(cold.spec(workers=1))
    assert status(cold.spec().home, "lateness_api").running is False


def test_a_registry_that_cannot_be_read_is_reported(cold, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="the registry cannot be read"):
        start(cold.spec(registry=f"sqlite:///{tmp_path}/file/r.sqlite"))


def test_a_missing_package_is_named_with_its_extra(cold, monkeypatch) -> None:
    monkeypatch.setattr(control, "_REQUIRED_PACKAGES", ("no_such_package",))
    with pytest.raises(MissingExtraError, match=r"no_such_package is not installed\nHint: pip install 'mlops_assets\[serve\]'"):
        start(cold.spec())


def test_a_supervisor_that_says_nothing_is_waited_for_no_longer_than_asked(cold) -> None:
    mute = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(ServiceError, match="does not report where it listens"):
        control._await_supervisor(cold.spec(), cold.spec().folder, mute.pid, time.monotonic())
    mute.wait(60)  # it was ended; by itself it sleeps ten minutes
    assert not psutil.pid_exists(mute.pid)


def test_a_service_that_never_was_has_a_status_and_can_be_stopped(tmp_path) -> None:
    assert status(str(tmp_path), "x") == stop(str(tmp_path), "x")
    assert status(str(tmp_path), "x").wanted == "never started"
    assert not ServiceFolder.locate(str(tmp_path), "x").path.exists()
