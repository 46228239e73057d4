"""The whole loop with nothing but the real daemon: new days, a drop of performance, a killed retraining, and no request that fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.serving.http import control
from mlops_assets.stores.platform.stores import open_stores
from tests.client import predict
from tests.commands import WARM_START
from tests.conftest import ROOT, Runner, clean_environment
from tests.orchestrate.compiler.test_daemon import DAGSTER_DAEMON, Daemon
from tests.projects import shop

SERVICE, DEADLINE = "shop_api", 300.0


class ShopDaemon(Daemon):
    """The daemon on the shop's project."""

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-c", DAGSTER_DAEMON, "run", "-f", "tests/projects/shop.py"]
        more = {
            "DAGSTER_HOME": str(self.dagster_home),
            "SHOP_WORLD": str(self.home / "world.json"),
            "SHOP_RUNNING": "1",
            "PYTHONPATH": f"{ROOT}:{WARM_START}",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(self.home, **more), stdout=log, stderr=log)

    def kill(self, spare: Collection[int] = ()) -> None:
        """Kill the daemon and everything that it has started, but for the service."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        while found := [pid for pid in self.family() if pid not in spare]:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


class Probe:
    """Asks the service all the time, as its clients would, and remembers every answer and every failure."""

    def __init__(self, url: str) -> None:
        self.url, self.versions, self.failures, self.asked = url, Counter(), [], 0
        self._row = [row | {"at": "2024-05-01T00:00:00Z"} for row in shop.requests_of(0)[:1]]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self.asked += 1
            try:
                self.versions[predict(self.url, self._row)["version"]] += 1
            except OSError as error:
                self.failures.append(repr(error))


class World:
    """Time moves by data: a day passes when its visitors have come."""

    def __init__(self, daemon: ShopDaemon, instance: dg.DagsterInstance, platform: ml.Platform) -> None:
        self.daemon, self.instance, self.platform = daemon, instance, platform
        self.run = Runner(ml.build_definitions(shop.NOUNS, platform=platform), instance)
        self.at = open_stores(platform)

    def turn(self, **changes: object) -> None:
        file = Path(self.platform.home) / "world.json"
        file.with_suffix(".new").write_text(json.dumps(changes))
        file.with_suffix(".new").replace(file)

    @property
    def url(self) -> str:
        found = control.status(self.platform.home, SERVICE).url
        assert found is not None
        return found

    def champion(self) -> int:
        return self.at.registry.champion("buyer").version

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not holds():
            assert self.daemon.process.poll() is None, f"the daemon ended: {self.daemon.log.read_text()[-3000:]}"
            assert time.monotonic() - begun < DEADLINE, (
                f"{what}: not within {DEADLINE} s; {self.state()}; {self.daemon.log.read_text()[-3000:]}"
            )
            time.sleep(0.5)
        print(f"{what}: {time.monotonic() - begun:.1f} s")

    def state(self) -> str:
        runs = [(r.run_id[:6], r.job_name, r.status.value) for r in self.instance.get_runs(limit=8)]
        return f"{runs} {self.at.decisions.reports('shop_watch')} {self.at.decisions.decisions('buyer')} {self.at.decisions.trainings('buyer')}"

    def reported(self, day: int, kind: str) -> str | None:
        found = [r for r in self.at.decisions.reports("shop_watch") if (r.partition, r.kind) == (shop.day_of(day), kind)]
        return found[-1].state if found else None

    def live(self, day: int) -> None:
        """Visitors are predicted when they come, and their day is in the source when it is over; the daemon does the rest."""
        predict(self.url, shop.requests_of(day))
        self.run("dataset/visits", partitions=shop.day_of(day))
        kinds = ("performance", "drift")
        self.until(
            f"reports of {shop.day_of(day)}", lambda: all(self.reported(day, kind) not in (None, "not enough data") for kind in kinds)
        )

    def service(self) -> set[int]:
        """Processes of the service: detached, they are not the daemon's."""
        found = control.status(self.platform.home, SERVICE)
        supervisor = json.loads((Path(self.platform.home) / "services" / SERVICE / "supervisor.json").read_text())["pid"]
        return {supervisor, *(worker.pid for worker in found.workers)}

    def trainings(self) -> list[dg.DagsterRun]:
        return self.instance.get_runs(dg.RunsFilter(job_name="retrain_buyer"))


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    monkeypatch.setenv("SHOP_WORLD", str(tmp_path / "home" / "world.json"))
    platform = ml.Platform.at(tmp_path / "home")
    daemon = ShopDaemon(Path(platform.home))
    with dg.DagsterInstance.from_config(str(daemon.dagster_home)) as instance:
        found = World(daemon, instance, platform)
        try:
            found.run(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(4)}")
            found.run(*shop.TRAIN)
            found.run(f"service/{SERVICE}")
            yield found
        finally:
            daemon.kill()
            assert not control.stop(platform.home, SERVICE).running


def test_the_loop_closes_by_itself_once_and_survives_a_kill(world) -> None:
    world.daemon.start()
    with Probe(world.url) as probe:
        world.live(5)
        world.turn(drift_from=6)
        world.live(6)
        assert (world.reported(6, "drift"), world.reported(6, "performance")) == ("breach", "good")
        assert (world.trainings(), world.champion()) == ([], 1)  # drift alone warns

        slow = Path(world.platform.home) / "train_on"
        world.turn(drift_from=6, shift_from=7, slow=str(slow))
        world.live(7)
        assert world.reported(7, "performance") == "breach"
        world.until("a retraining has begun", Path(f"{slow}.begun").exists)
        world.daemon.kill(spare=world.service())
        slow.touch()
        world.daemon.start()
        world.until("the retraining is done after all", lambda: world.champion() == 2)
        world.until("every run has ended", lambda: all(run.is_finished for run in world.instance.get_runs()))
        world.live(8)
        assert world.reported(8, "performance") == "good"
        statuses = Counter(run.status.value for run in world.trainings())
        assert statuses == {"FAILURE": 1, "SUCCESS": 1}
        world.turn(drift_from=6, shift_from=99)
        world.live(9)  # bad again, within the cooldown
        assert world.reported(9, "performance") == "breach"
        time.sleep(15)  # three ticks of the sensor
        assert len(world.trainings()) == 2
    assert probe.failures == []
    assert probe.asked > 200
    assert set(probe.versions) == {1, 2}
    assert [(e.kind, e.version) for e in world.at.registry.history("buyer")] == [("promotion", 1), ("promotion", 2)]
    assert len(world.at.decisions.decisions("buyer")) == 1
    served = world.at.lake.read("predictions/shop_api")
    counts = served.group_by(pl.col("at").dt.date()).len().sort("at")
    assert counts["len"].to_list() == [shop.ROWS] * 5
    assert served["prediction_id"].n_unique() == served.height
