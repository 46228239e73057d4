"""The whole loop with nothing but the real daemon: new days, a drop of performance, a killed retraining, and no request that fails."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import dagster as dg
import polars as pl
import pytest

from mlops_assets.serving.http import control
from tests.client import predict
from tests.e2e.project_daemon import ProjectDaemon, ServedWorld
from tests.projects import shop


class Probe:
    """Asks the service all the time, as its clients would, and remembers every answer and every failure."""

    def __init__(self, url: str) -> None:
        self.url, self.versions, self.failures, self.asked = url, Counter(), [], 0
        self.pause = 0.2  # seconds between two requests
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
        while not self._ended.wait(self.pause):
            self.asked += 1
            try:
                self.versions[predict(self.url, self._row)["version"]] += 1
            except OSError as error:
                self.failures.append(repr(error))


class World(ServedWorld):
    """Time moves by data: a day passes when its visitors have come."""

    def turn(self, **changes: object) -> None:
        file = Path(self.platform.home) / "world.json"
        file.with_suffix(".new").write_text(json.dumps(changes))
        file.with_suffix(".new").replace(file)

    def day_state(self, day: int, kind: str) -> str | None:
        return self.reported(shop.day_of(day), kind)

    def live(self, day: int) -> None:
        """Visitors are predicted when they come, and their day is in the source when it is over; the daemon does the rest."""
        predict(self.url, shop.requests_of(day))
        self.run("dataset/visits", partitions=shop.day_of(day))
        kinds = ("performance", "drift")
        self.until(
            f"reports of {shop.day_of(day)}", lambda: all(self.day_state(day, kind) not in (None, "not enough data") for kind in kinds)
        )

    def trainings(self) -> list[dg.DagsterRun]:
        return self.instance.get_runs(dg.RunsFilter(job_name="retrain_buyer"))


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    variables = {"SHOP_WORLD": str(tmp_path / "home" / "world.json")}
    monkeypatch.setenv("SHOP_WORLD", variables["SHOP_WORLD"])
    daemon = ProjectDaemon(tmp_path / "home", "tests/projects/shop.py", **variables, SHOP_RUNNING="1")
    with dg.DagsterInstance.from_config(str(daemon.dagster_home)) as instance:
        found = World(daemon, instance, shop.NOUNS, shop.shop_watch)
        try:
            found.run(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(4)}")
            found.run(*shop.TRAIN)
            found.run("service/shop_api")
            yield found
        finally:
            daemon.kill()
            assert not control.stop(found.platform.home, "shop_api").running


def test_the_loop_closes_by_itself_once_and_survives_a_kill(world) -> None:
    world.daemon.start()
    with Probe(world.url) as probe:
        world.live(5)
        world.turn(drift_from=6)
        world.live(6)
        assert (world.day_state(6, "drift"), world.day_state(6, "performance")) == ("breach", "good")
        assert (world.trainings(), world.champion()) == ([], 1)  # drift alone warns

        slow = Path(world.platform.home) / "train_on"
        world.turn(drift_from=6, shift_from=7, slow=str(slow))
        world.live(7)
        assert world.day_state(7, "performance") == "breach"
        world.until("a retraining has begun", Path(f"{slow}.begun").exists)
        probe.pause = 0.02  # a kill and a swap of the model could lose requests
        world.daemon.kill(spare=world.service())
        slow.touch()
        world.daemon.start()
        world.until("the retraining is done after all", lambda: world.champion() == 2)
        world.until("every run has ended", lambda: all(run.is_finished for run in world.instance.get_runs()))
        world.until("clients are answered by the new version", lambda: probe.versions[2] > 0)
        probe.pause = 0.2
        world.live(8)
        assert world.day_state(8, "performance") == "good"
        statuses = Counter(run.status.value for run in world.trainings())
        assert statuses == {"FAILURE": 1, "SUCCESS": 1}
        world.turn(drift_from=6, shift_from=99)
        world.live(9)  # bad again, within the cooldown
        assert world.day_state(9, "performance") == "breach"
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
