"""One turn of a monitor's loop by a command: what the sensors would do, recorded so that they do not repeat it."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from rich.console import Console
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.cli.monitoring import reports
from mlops_assets.cli.monitoring.step import Turn, run_turn
from mlops_assets.cli.project import LoadedProject, open_clean_instance
from mlops_assets.cli.status import collect_status
from mlops_assets.compute.monitoring.decide import LoopFacts, decide
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core.sensor_state import HEARTBEAT_LIMIT, explain_sensors_off, is_sensor_on
from mlops_assets.orchestrate.monitoring.turn import group_ranges
from mlops_assets.orchestrate.retraining.decisions import describe_next_action
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.decisions import Hold, WindowReport
from tests.conftest import Runner

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
ROWS = 40
RETRAIN = ml.Retrain(backoff=timedelta(0))
TRAIN = ("training_set/examples", "model/line", "version/line", "champion/line")


def key(day: int) -> str:
    return f"{BASE + timedelta(days=day):%Y-%m-%d}"


class World:
    """A linear relation whose sign flips on day ``turns_on``; a training crashes while ``crashes`` is set."""

    def __init__(self, folder: Path, *, approval: bool = False, retrain: ml.Retrain | None = RETRAIN) -> None:
        self.turns_on, self.crashes = 5, False
        self.platform = ml.Platform.at(folder / "home")
        self.definitions = ml.build_definitions(self.nouns(approval=approval, retrain=retrain), platform=self.platform)
        self.loaded = LoadedProject(Path("definitions.py"), self.definitions, compiled_projects()[-1:])
        self.at = open_stores(self.platform)

    def rows(self, window: ml.TimeWindow) -> pl.DataFrame:
        days = range((window.start - BASE).days, (window.end - BASE).days)
        return pl.concat([self.day(day) for day in days])

    def day(self, day: int) -> pl.DataFrame:
        x = np.random.default_rng(day).normal(size=ROWS)
        at = pl.Series([BASE + timedelta(days=day, minutes=n) for n in range(ROWS)], dtype=pl.Datetime("us", "UTC"))
        y = x * (-1.0 if day >= self.turns_on else 1.0) + np.random.default_rng(day + 99).normal(size=ROWS, scale=0.1)
        return pl.DataFrame({"id": [f"{day}-{n}" for n in range(ROWS)], "at": at, "x": x, "y": y})

    def nouns(self, *, approval: bool, retrain: ml.Retrain | None) -> list:
        @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
        def points(window: ml.TimeWindow) -> pl.DataFrame:
            return self.rows(window)

        @ml.training_set(
            columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(train=timedelta(days=2), holdout=timedelta(days=1))
        )
        def examples(points: pl.LazyFrame) -> pl.LazyFrame:
            return points

        @ml.model(training_set=examples, metrics=["r2"], approval=approval)
        def line(train: ml.Split) -> LinearRegression:
            if self.crashes:
                msg = "out of memory"
                raise RuntimeError(msg)
            return LinearRegression().fit(train.X, train.y)

        scores = ml.BatchPrediction("scores", model=line, dataset=points)
        expected = (ml.Drift(), ml.Performance("r2", at_least=0.5, min_labels=10))
        return [points, examples, line, scores, ml.Monitor("watch", of=scores, expectations=expected, on_failure=retrain, min_rows=10)]

    def begin(self) -> "World":
        """Train on four days, and predict two more of which the last is bad."""
        with open_clean_instance(self.platform) as opened:
            runner = Runner(self.definitions, opened)
            runner("dataset/points", partitions=f"{key(0)}...{key(3)}")
            runner(*TRAIN[:-1])
            self.at.registry.approve("line", 1, approved=True, approver="ada", reason="first")
            runner("champion/line")
            runner("dataset/points", "predictions/scores", partitions=f"{key(4)}...{key(5)}")
        return self

    def turn(self) -> Turn:
        return run_turn(self.loaded, "watch", Console(file=io.StringIO()))

    def show(self) -> dict:
        return reports.describe_monitor(self.loaded, "watch", None)

    def sensor(self) -> dg.RunRequest | dg.SkipReason:
        found = next(s for s in self.definitions.sensors if s.name == "watch_retrains")
        with open_clean_instance(self.platform) as opened, dg.build_sensor_context(instance=opened) as context:
            return found(context)

    def runs(self) -> int:
        with open_clean_instance(self.platform) as opened:
            return opened.get_runs_count()


@pytest.fixture(autouse=True)
def _no_dagster_home(monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")


@pytest.fixture
def stored(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def test_one_turn_reports_decides_trains_and_promotes_and_the_sensor_repeats_nothing(tmp_path) -> None:
    world = World(tmp_path)
    (fresh,) = collect_status(world.loaded)["monitors"]
    assert fresh == {"monitor": "watch", "newest window": "none", "state": "not reported", "next": "no version of line serves"}
    world.begin()
    before = world.show()["next"]
    assert "performance_report/watch is behind its inputs in 2 windows; the sensor 'mlops_automation' is off: switch it on" in before
    assert "`mlops monitor step watch`" in before

    world.crashes = True
    crashed = world.turn()
    assert not crashed.success
    assert crashed.facts["reports"][0] == f"drift_report/watch and performance_report/watch of {key(4)} to {key(5)}: made"
    late = f"{key(0)}...{key(3)}"
    command = f"mlops run --select 'key:\"predictions/scores_predictions\"' --partitions {late}"
    assert crashed.facts["reports"][1] == f"'predictions/scores' is behind its inputs in {late}: {command}"
    assert f"{key(5)}: breach: r2 " in crashed.facts["decision"]
    assert crashed.facts["training"].startswith("attempt 1 of decision")
    assert crashed.facts["training"].endswith("crashed")
    assert any("out of memory" in line for line in crashed.lines)
    assert world.sensor().run_key.endswith("#2")
    assert "retrains line, attempt 2" in world.show()["next"]
    assert world.show()["next"].endswith(
        "the sensor 'watch_retrains' is off: switch it on in the UI, or evaluate once with `mlops monitor step watch`"
    )

    world.crashes = False
    turn = world.turn()
    assert turn.success
    assert turn.facts["training"].startswith("attempt 2 of decision")
    assert turn.facts["training"].endswith("promoted")
    assert turn.facts["promotion"] == "champion of line: version 2"
    (decision,) = world.at.decisions.decisions("line")
    assert decision.closed == "version 1 no longer serves, version 2 serves"
    assert isinstance(world.sensor(), dg.SkipReason)

    count = world.runs()
    again = world.turn()
    assert again.success
    assert again.facts["reports"][0].startswith("'predictions/scores' is behind")
    assert again.facts["training"].startswith("none: no open breach of the serving version 2")
    assert f"the breach of {key(5)} is about version 1, which does not serve: version 2 serves" in again.facts["next"]
    assert world.runs() == count
    (row,) = collect_status(world.loaded)["monitors"]
    assert (row["newest window"], row["state"], row["next"]) == (key(5), "breach", again.facts["next"])


def test_a_training_by_hand_settles_the_decision_and_a_turn_promotes_what_is_approved(tmp_path) -> None:
    world = World(tmp_path, approval=True).begin()
    with open_clean_instance(world.platform) as opened:
        runner = Runner(world.definitions, opened)
        runner("performance_report/watch", partitions=f"{key(4)}...{key(5)}")
        assert world.show()["decisions"][0]["state"] == "open"
        runner(*TRAIN[:-1])
    assert "waits for approval" in world.show()["next"]
    world.at.registry.approve("line", 2, approved=True, approver="ada", reason="looks good")
    assert world.show()["decisions"][0]["state"] == "open"  # approved, and not promoted yet
    turn = world.turn()
    assert turn.facts["promotion"] == "champion of line: version 2"
    assert turn.facts["decision"] == "none is open"
    (decision,) = world.at.decisions.decisions("line")
    assert "no longer serves" in decision.closed


def test_a_breach_that_opens_nothing_says_why() -> None:
    breach = WindowReport("2024-01-06", BASE, 1, "breach")
    known = LoopFacts("line", 1, RETRAIN, BASE, (breach,))
    watched = World.nouns(World.__new__(World), approval=False, retrain=None)[-1]
    assert (
        describe_next_action(known, watched)
        == "the monitor has no on_failure=ml.Retrain(...), so it retrains nothing; the breach of 2024-01-06 opens no decision"
    )
    assert decide(replace(known, serving=None)) == Hold(
        "no version of line serves; the breach of 2024-01-06 is about version 1, which does not serve: no version serves"
    )


@pytest.mark.parametrize(
    ("chosen", "on"),
    [(None, False), (InstigatorStatus.RUNNING, True), (InstigatorStatus.STOPPED, False), (InstigatorStatus.DECLARED_IN_CODE, False)],
)
def test_a_sensor_is_on_as_the_instance_says_or_else_as_the_code_does(stored, chosen, on) -> None:
    sensor = dg.SensorDefinition(name="watch_retrains", job_name="x", evaluation_fn=lambda _: None)
    if chosen is not None:
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(_location(), "__repository__"), "watch_retrains")
        stored.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, chosen, SensorInstigatorData()))
    assert is_sensor_on(sensor, stored) is on
    running = dg.SensorDefinition(name="other", job_name="x", evaluation_fn=lambda _: None, default_status=dg.DefaultSensorStatus.RUNNING)
    assert is_sensor_on(running, stored)


def _location():
    from dagster._core.remote_origin import InProcessCodeLocationOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    return InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="definitions.py"), location_name="definitions.py")


def test_without_a_daemon_a_sensor_that_is_on_does_nothing(stored) -> None:
    sensor = dg.SensorDefinition(name="on", job_name="x", evaluation_fn=lambda _: None, default_status=dg.DefaultSensorStatus.RUNNING)
    definitions = dg.Definitions(sensors=[sensor])
    assert "no Dagster daemon runs" in explain_sensors_off(definitions, ["on"], stored, "do it")
    from dagster._daemon.types import DaemonHeartbeat

    stored.add_daemon_heartbeat(DaemonHeartbeat(1000.0, "SENSOR", "id", []))
    assert explain_sensors_off(definitions, ["on"], stored, "do it", clock=1000.0 + HEARTBEAT_LIMIT) == ""
    assert "no Dagster daemon runs" in explain_sensors_off(definitions, ["on"], stored, "do it", clock=1001.0 + HEARTBEAT_LIMIT)


def test_windows_with_a_gap_are_two_runs_and_reports_that_need_others_are_apart() -> None:
    due = {"a": [key(2), key(0), key(1)], "b": [key(0), key(1), key(2)], "c": [key(0), key(2)]}
    assert list(group_ranges(due, DAILY)) == [(["a", "b"], key(0), key(2)), (["c"], key(0), key(0)), (["c"], key(2), key(2))]
