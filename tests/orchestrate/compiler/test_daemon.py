"""The loop closed by the real daemon: started on months of missing days, fed new and rewritten ones, and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData

from mlops_assets.orchestrate.core import liveness
from mlops_assets.orchestrate.core.dagster_files import DAGSTER_YAML
from mlops_assets.orchestrate.core.liveness import build_process_tags, reap_dead_runs
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.automation import AUTOMATION
from mlops_assets.values.platform import Platform
from tests.commands import WARM_START
from tests.conftest import ROOT, Runner, clean_environment
from tests.projects import daemon as project
from tests.projects import visits

SHARES, FEATURES, PREDICTIONS = "dataset/shares", "features/shop_shares", visits.PREDICTIONS
STARTING, STARTED, FAILURE = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE
UNFINISHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, STARTING, STARTED]
DEADLINE = 600.0  # seconds; each step of the loop takes ten to thirty, and far more on a machine that others use
QUEUE = "run_coordinator:\n  module: dagster\n  class: QueuedRunCoordinator\n  config: {dequeue_interval_seconds: 1}\n"
# The daemon itself, but for how often it looks at backfills, which is every 30 seconds and cannot be configured.
DAGSTER_DAEMON = """
from dagster._daemon import cli, controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
cli.main()
"""


class Daemon:
    """The real daemon with its code servers and its runs, on one home."""

    def __init__(self, home: Path) -> None:
        self.home, self.hold, self.held = home, home / "hold", home / "hold.held"
        self.dagster_home, self.log = home / "dagster", home / "daemon.log"
        self.dagster_home.mkdir(parents=True)
        (self.dagster_home / "dagster.yaml").write_text(DAGSTER_YAML + QUEUE)
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", DAGSTER_DAEMON, "run", "-f", "tests/projects/daemon.py"]
        environment = clean_environment(
            self.home, DAGSTER_HOME=str(self.dagster_home), HOLD=str(self.hold), PYTHONPATH=f"{ROOT}:{WARM_START}"
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def family(self) -> list[int]:
        """Every process that was started with this home, whoever its parent is by now."""
        return [process.pid for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("DAGSTER_HOME") == str(self.dagster_home) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def kill(self) -> None:
        """Kill the daemon first, so that it starts nothing more, then everything that it has started."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        while found := self.family():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to end, as an operator does; nothing that it has started may stay."""
        self.process.terminate()
        self.process.wait(DEADLINE)
        begun = time.monotonic()
        while left := self.family():
            assert time.monotonic() - begun < DEADLINE, f"these are left: {left}"
            time.sleep(0.5)


class Loop:
    """What the daemon has made, as the event log tells it."""

    def __init__(self, daemon: Daemon, runner: Runner) -> None:
        self.daemon, self.runner, self.instance = daemon, runner, runner.instance
        self._made, self._last = Counter(), dict.fromkeys((SHARES, FEATURES, PREDICTIONS), 0)

    def made(self) -> Counter:
        """How often each partition of each derived table was made."""
        for key, last in self._last.items():
            new = dg.AssetRecordsFilter(asset_key(key), after_storage_id=last)
            events = self.instance.fetch_materializations(new, limit=10_000, ascending=True).records
            self._made.update((key, event.partition_key) for event in events)
            self._last[key] = events[-1].storage_id if events else last
        return self._made.copy()

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[str]:
        return [run.run_id for run in self.instance.get_runs(dg.RunsFilter(statuses=list(statuses)))]

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not holds():
            assert self.daemon.process.poll() is None, f"{what}: the daemon ended; {self.state()}"
            assert time.monotonic() - begun < DEADLINE, f"{what}: not within {DEADLINE} s; {self.state()}"
            time.sleep(0.5)
        print(f"{what}: {time.monotonic() - begun:.1f} s")

    def state(self) -> str:
        return f"made {sorted(self.made().items())}; the daemon's last words: {self.daemon.log.read_text()[-3000:]}"

    def makes(self, what: str, wanted: Counter) -> None:
        """Wait until everything wanted is made and nothing runs; then nothing else was made, nor anything twice."""
        self.until(what, lambda: wanted <= self.made() and not self.runs(*UNFINISHED))
        assert self.made() == wanted

    def ticks(self, n: int) -> None:
        """Wait for whole ticks of the automation, which could ask for more."""
        for _ in range(n):
            last = self._last_tick()
            self.until("a tick", lambda last=last: self._last_tick() > last)

    def _last_tick(self) -> float:
        states = [state for state in self.instance.all_instigator_state() if state.name == AUTOMATION]
        return max((state.instigator_data.last_tick_timestamp or 0 for state in states), default=0)


@pytest.fixture
def loop(platform: Platform) -> Iterator[Loop]:
    daemon = Daemon(Path(platform.home))
    with dg.DagsterInstance.from_config(str(daemon.dagster_home)) as instance:
        try:
            yield Loop(daemon, Runner(project.build(platform, visits.World()), instance))
        finally:
            daemon.kill()


def days(key: str, first: int, last: int | None = None) -> Counter:
    return Counter((key, day(number)) for number in range(first, (last or first) + 1))


def day(number: int) -> str:
    return project.DAILY.get_partition_keys()[number - 1]


def killed_in_the_middle_of_a_step(loop: Loop) -> str:
    """Kill the daemon and everything of it while one run is in a step; return the run."""
    loop.until("a run in the middle of a step", lambda: loop.daemon.held.exists() and len(loop.runs(*UNFINISHED)) == 1)
    [dead] = loop.runs(STARTED)
    loop.daemon.kill()
    assert loop.runs(STARTED) == [dead]
    return dead


def test_the_daemon_closes_the_loop_and_a_kill_loses_nothing_and_repeats_nothing(loop, platform) -> None:
    loop.runner("dataset/visits", partitions=f"{day(1)}...{day(80)}")
    loop.daemon.start()
    wanted = days(SHARES, 1, 81) + days(FEATURES, 1, 81)
    loop.makes("a first start on months of missing days", wanted)
    loop.runner(*visits.TRAIN)
    wanted += days(PREDICTIONS, 1, 80)
    loop.makes("predictions after the first champion", wanted)

    loop.runner("dataset/visits", partitions=day(81))
    wanted += days(SHARES, 82) + days(FEATURES, 82) + days(PREDICTIONS, 81)
    loop.makes("a new day", wanted)

    loop.daemon.hold.touch()
    loop.runner("dataset/visits", partitions=day(82))
    wanted += days(PREDICTIONS, 82)
    loop.until("what does not wait for the held step", lambda: loop.made() == wanted)
    dead = killed_in_the_middle_of_a_step(loop)
    loop.daemon.hold.unlink()
    loop.daemon.start()
    loop.until("the dead run is marked", lambda: loop.runs(STARTED) != [dead])
    assert loop.instance.get_run_by_id(dead).status is FAILURE

    # While the pause after the failed attempt lasts, an old day is rewritten.
    world = visits.World()
    world.changed = frozenset({"4-1"})
    Runner(project.build(platform, world), loop.instance)("dataset/visits", partitions=day(5))
    wanted += days(SHARES, 6, 8) + days(FEATURES, 6, 8) + days(PREDICTIONS, 5, 10)
    loop.until("what is made from a rewritten day", lambda: wanted <= loop.made())
    wanted += days(SHARES, 83) + days(FEATURES, 83)
    loop.makes("what the kill left missing", wanted)
    loop.ticks(2)
    assert loop.made() == wanted
    assert loop.runs(*UNFINISHED) == []
    loop.daemon.stop()


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with Dagster's default launcher."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


@pytest.fixture
def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def launched(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    """A run that the launcher has sent away, as the event log tells it, and that has begun or not."""
    run = instance.create_run_for_job(dg.GraphDefinition("g").to_job(), tags=tags)
    events = [dg.DagsterEventType.RUN_STARTING, *([dg.DagsterEventType.RUN_START] if status is STARTED else [])]
    for event in events:
        instance.report_dagster_event(dg.DagsterEvent(event.value, "g"), run.run_id)
    return run


def tell_process(instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int) -> None:
    instance.report_engine_event("Started process", run, EngineEventData.in_process(pid))


def test_a_run_that_was_launched_and_never_started_is_buried_after_a_while(stored, monkeypatch) -> None:
    run = launched(stored, STARTING)
    assert reap_dead_runs(stored) == []
    monkeypatch.setattr(liveness, "START_TIMEOUT", timedelta(seconds=-1))
    assert reap_dead_runs(stored) == [run.run_id]
    assert stored.get_run_by_id(run.run_id).status is FAILURE


@pytest.mark.parametrize("status", [STARTING, STARTED])
def test_a_run_whose_code_server_died_before_it_recorded_its_process_is_reaped(stored, status, dead_pid) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/server")
        server.listen()
        tags = {".dagster/grpc_info": json.dumps({"host": "localhost", "socket": f"{folder}/server"})}
        elsewhere = {".dagster/grpc_info": json.dumps({"host": "localhost", "socket": f"{folder}/of_another_machine"})}
        silent, told, alive, others = (launched(stored, status, **t) for t in (tags, tags, tags, elsewhere))
        tell_process(stored, told, dead_pid)
        tell_process(stored, alive, os.getpid())
        assert reap_dead_runs(stored) == []  # the server answers
        server.close()
        assert sorted(reap_dead_runs(stored)) == sorted([silent.run_id, told.run_id])
        assert {stored.get_run_by_id(run.run_id).status for run in (alive, others)} == {status}


def test_a_step_in_a_process_of_its_own_does_not_speak_for_its_run(stored, dead_pid) -> None:
    run = launched(stored, STARTED)
    tell_process(stored, run, os.getpid())  # the run's process; the step's has ended
    liveness._tag_once(stored, run.run_id, dead_pid)
    assert reap_dead_runs(stored) == []


def test_tags_that_were_copied_from_a_dead_run_do_not_count(stored, dead_pid) -> None:
    tags = build_process_tags(dead_pid) | {"mlops/run": "the run that is repeated"}
    launched(stored, STARTED, **tags)
    launched(stored, STARTING, **build_process_tags(dead_pid))
    assert reap_dead_runs(stored) == []


def test_a_process_that_ended_unnoticed_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tags = build_process_tags(child.pid)
    assert not liveness.is_gone(tags)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has taken notice
    assert liveness.is_gone(tags)
    child.wait()
    child.stdin.close()
