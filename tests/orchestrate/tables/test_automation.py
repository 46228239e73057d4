"""Derived assets follow recorded facts: stepped tick by tick."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.orchestrate.core.liveness import build_process_tags, reap_dead_runs
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables import automation
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform
from tests.conftest import Runner, records
from tests.memory_instance import open_memory_instance
from tests.projects import visits as project

FOLLOWERS = ("dataset/shares", "features/shop_shares", project.PREDICTIONS)


class Ticks:
    """Evaluates every condition as the daemon would, and runs what was asked for."""

    def __init__(self, runner: Runner, like: "Ticks | None" = None) -> None:
        self.runner = runner
        self.cursor = like and like.cursor
        self.time = max(datetime.now(UTC), like.time) if like else datetime.now(UTC)

    def tick(self) -> dict[str, list[str]]:
        self.time += timedelta(seconds=30)
        selection = dg.AssetSelection.assets(*(asset_key(k) for k in FOLLOWERS))
        result = dg.evaluate_automation_conditions(self.runner.definitions, self.runner.instance, selection, self.time, cursor=self.cursor)
        self.cursor = result.cursor
        return {key: sorted(found) for key in FOLLOWERS if (found := result.get_requested_partitions(asset_key(key)))}

    def execute(self, asked: dict[str, list[str]], *, ok: bool = True) -> None:
        days = project.DAILY.get_partition_keys()
        for key, partitions in asked.items():
            for first, last in _ranges([days.index(p) for p in partitions]):
                self.runner(key, partitions=f"{days[first]}...{days[last]}", ok=ok)

    def settle(self) -> dict[str, list[str]]:
        """Tick until nothing more is asked for; return everything that was."""
        everything: dict[str, list[str]] = {}
        for _ in range(8):
            asked = self.tick()
            if not asked:
                return everything
            for key, partitions in asked.items():
                everything[key] = sorted({*everything.get(key, []), *partitions})
            self.execute(asked)
        raise AssertionError("it never settles")


def _ranges(indexes: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for index in indexes:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


@pytest.fixture
def world() -> project.World:
    return project.World()


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Iterator[tuple[Path, Ticks]]:
    """A home with twenty days made, and its ticks."""
    home = tmp_path_factory.mktemp("begun") / "home"
    with open_memory_instance() as instance:
        found = Ticks(Runner(project.build(Platform.at(home), project.World()), instance))
        found.runner("dataset/visits", partitions="2024-01-01...2024-01-20")
        yield home, found


@pytest.fixture(scope="module")
def settled(begun, tmp_path_factory) -> Iterator[tuple[Path, Ticks]]:
    """A home with a champion, and everything settled."""
    home = tmp_path_factory.mktemp("settled") / "home"
    with continued(begun, Platform.at(home), project.World()) as found:
        found.settle()
        found.runner(*project.TRAIN)
        found.settle()
        yield home, found


@contextmanager
def continued(made: tuple[Path, Ticks], platform: Platform, world: project.World) -> Iterator[Ticks]:
    """Continue from a copy of what is made."""
    home, ticks = made
    shutil.copytree(home, platform.home)
    with open_memory_instance(like=ticks.runner.instance) as instance:
        yield Ticks(Runner(project.build(platform, world), instance), like=ticks)


@pytest.fixture
def ticks(begun, platform, world) -> Iterator[Ticks]:
    with continued(begun, platform, world) as found:
        yield found


@pytest.fixture
def trained(settled, platform, world) -> Iterator[Ticks]:
    with continued(settled, platform, world) as found:
        yield found


def days(first: int, last: int | None = None) -> list[str]:
    return [f"2024-01-{day:02d}" for day in range(first, (last or first) + 1)]


def test_a_first_start_on_missing_days_asks_for_all_of_them_once(ticks, platform) -> None:
    first = ticks.tick()
    assert first["dataset/shares"] == days(1, 21)  # the 21st is made from the 18th to the 20th
    ticks.execute(first)
    later = ticks.settle()
    assert later.get("dataset/shares", []) == []
    assert records(platform, "features/shop_shares").keys() == set(days(1, 21))
    assert project.PREDICTIONS not in later  # there is no champion yet
    assert ticks.tick() == {}


def test_new_late_and_rewritten_days_move_exactly_what_is_made_from_them(trained, world) -> None:
    trained.runner("dataset/visits", partitions="2024-01-21")
    assert trained.settle() == {
        "dataset/shares": days(22),
        "features/shop_shares": days(22),
        project.PREDICTIONS: days(21),
    }
    trained.runner("dataset/visits", partitions="2024-01-24")  # two days are skipped, and come late
    trained.settle()
    trained.runner("dataset/visits", partitions="2024-01-23")
    late = trained.settle()
    assert late["dataset/shares"] == days(24, 25)
    assert late[project.PREDICTIONS] == days(24)  # the features of the 23rd still wait for the 22nd
    world.changed = frozenset({"4-1"})
    trained.runner("dataset/visits", partitions="2024-01-05")
    rewritten = trained.settle()
    assert rewritten["dataset/shares"] == days(6, 8) == rewritten["features/shop_shares"]
    assert rewritten[project.PREDICTIONS] == days(5, 10)  # its own rows, and those whose ttl reaches a changed feature
    trained.runner("dataset/visits", partitions="2024-01-05")  # unchanged: nothing follows
    assert trained.settle() == {}


def test_a_new_champion_asks_for_no_prediction_again(trained, platform) -> None:
    trained.runner("training_set/examples", "model/buys", "version/buys", "champion/buys", config={"model__buys_candidate": {"C": 0.5}})
    assert open_stores(platform).registry.versions("buys")[-1].state == "champion"
    assert trained.settle() == {}


def test_nothing_ran_so_it_is_asked_again_and_a_restart_forgets_nothing(ticks) -> None:
    asked = ticks.tick()
    assert ticks.tick() == asked
    ticks.cursor = None  # a daemon that begins anew
    assert ticks.tick() == asked


def test_failures_on_the_same_inputs_wait_and_end(ticks, world, platform, monkeypatch) -> None:
    lake = type(open_stores(platform).lake)

    def broken(*_args, **_more):
        raise OSError("no space")

    monkeypatch.setattr(lake, "write", broken)
    times = []
    for _ in range(20):
        asked = ticks.tick()
        if "dataset/shares" in asked:
            times.append(ticks.time)
            with pytest.raises(OSError, match="no space"):
                _execute_broken(ticks)
        ticks.time += timedelta(minutes=1)
    assert len(times) == 3
    assert times[1] - times[0] > timedelta(minutes=1)
    monkeypatch.undo()
    world.changed = frozenset({"3-1"})
    ticks.runner("dataset/visits", partitions="2024-01-04")
    assert ticks.tick()["dataset/shares"] == days(5, 7)  # new inputs are tried


def _execute_broken(ticks) -> None:
    job = ticks.runner.definitions.resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-21"}
    job.execute_in_process(instance=ticks.runner.instance, asset_selection=[asset_key("dataset/shares")], tags=tags)


def test_runs_whose_process_is_gone_are_reaped_and_automation_continues(ticks) -> None:
    import subprocess
    import sys

    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tags = build_process_tags(dead.pid)
    instance, definitions = ticks.runner.instance, ticks.runner.definitions
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={asset_key("dataset/shares")})
    more = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-21"}
    run = instance.create_run_for_job(job, tags=tags | more, status=dg.DagsterRunStatus.STARTED)
    assert reap_dead_runs(instance) == []  # it lives
    dead.kill()
    dead.wait()
    dead.stdin.close()
    sensor = next(s for s in definitions.sensors if s.name == "mlops_dead_runs")
    with dg.build_sensor_context(instance=instance) as context:
        assert run.run_id[:8] in sensor(context).skip_message
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert "dataset/shares" in ticks.tick()


def test_a_run_that_ends_while_conditions_are_evaluated_is_not_repeated(ticks, monkeypatch) -> None:
    instance, definitions = ticks.runner.instance, ticks.runner.definitions
    assert ticks.tick()["dataset/shares"] == days(1, 21)
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={asset_key("dataset/shares")})
    span = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-21"}
    run = instance.create_run_for_job(job, tags=span, status=dg.DagsterRunStatus.STARTED)
    find_stale = automation.find_stale

    def find_stale_before_the_end_of_the_run(node, platform):
        stale = find_stale(node, platform)
        if node.key == "dataset/shares" and not instance.get_run_by_id(run.run_id).is_finished:
            instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job.name), run.run_id)
        return stale

    monkeypatch.setattr(automation, "find_stale", find_stale_before_the_end_of_the_run)
    assert "dataset/shares" not in ticks.tick()


def test_unreported_commits_of_a_run_are_reported_once(ticks, world, platform, monkeypatch) -> None:
    instance, key = ticks.runner.instance, asset_key("dataset/shares")
    sensor = next(s for s in ticks.runner.definitions.sensors if s.name == "mlops_dead_runs")
    cursor = None

    def tick() -> str:
        nonlocal cursor
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            said = sensor(context).skip_message
            cursor = context.cursor
        return said

    attempts = type(open_stores(platform).attempts)
    with monkeypatch.context() as broken:  # whatever happens after the commit and before the event: here the registry is away
        broken.setattr(attempts, "clear", lambda *_: (_ for _ in ()).throw(OSError("the registry is away")))
        ticks.runner("dataset/shares", partitions="2024-01-01...2024-01-03", ok=False)
    committed = records(platform, "dataset/shares")
    assert committed.keys() == set(days(1, 3))
    assert set(days(1, 3)) & set(ticks.tick()["dataset/shares"]) == set()  # the data are right, so nobody asks for them
    ticks.runner("dataset/shares", partitions="2024-01-03")  # a person does for one of them, and its event counts
    assert "reported 2 partitions" in tick()
    assert "reported" not in tick()
    cursor = None  # a sensor that begins anew
    assert "reported" not in tick()
    assert instance.get_materialized_partitions(key) == set(days(1, 3))
    found = instance.fetch_materializations(key, limit=100).records
    versions = {e.partition_key: e.asset_materialization.tags["dagster/data_version"] for e in found if e.run_id == ""}
    assert versions == {day: committed[day] for day in days(1, 2)}
    assert len(found) == 3
    inputs = {day: record.inputs for day, record in open_stores(platform).lake.records("dataset/shares").items()}
    assert (
        open_stores(platform).attempts.find_blocked("dataset/shares", inputs, datetime.now(UTC)) == {}
    )  # they are no failed attempts any more


def test_another_hosts_runs_are_left_alone(instance) -> None:
    tags = build_process_tags(1) | {"mlops/host": "elsewhere", "mlops/pid": "999999"}
    instance.create_run_for_job(dg.GraphDefinition("g").to_job(), tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert reap_dead_runs(instance) == []


def test_after_gates_a_good_model_flows_and_a_bad_one_does_not(ticks, world) -> None:
    ticks.settle()
    selection = dg.AssetSelection.assets(asset_key("version/buys"), asset_key("champion/buys"))
    cursor = None

    def asked() -> set[str]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(ticks.runner.definitions, ticks.runner.instance, selection, cursor=cursor)
        cursor = result.cursor
        return {k for k in ("version/buys", "champion/buys") if result.get_num_requested(asset_key(k))}

    ticks.runner("training_set/examples")
    assert asked() == set()
    world.broken = {"gate"}
    ticks.runner("model/buys", ok=False)
    assert asked() == set()
    world.broken = set()
    ticks.runner("model/buys", config={"model__buys_candidate": {"C": 0.3}})
    assert "version/buys" in asked()
    ticks.runner("version/buys")
    ticks.runner("champion/buys")
    assert asked() <= {"champion/buys"}


def test_the_calendar_requests_the_one_job_of_its_model(ticks, platform) -> None:
    schedule = next(s for s in ticks.runner.definitions.schedules if s.name == "retrain_buys_schedule")
    assert (schedule.cron_schedule, schedule.default_status) == ("0 4 * * 1", dg.DefaultScheduleStatus.STOPPED)
    context = dg.build_schedule_context(ticks.runner.instance, scheduled_execution_time=datetime(2024, 1, 29, 4, tzinfo=UTC))
    assert len(schedule.evaluate_tick(context).run_requests) == 1
    job = ticks.runner.definitions.resolve_job_def("retrain_buys")
    assert set(job.asset_layer.executable_asset_keys) == {asset_key(key) for key in project.TRAIN}
    ticks.settle()
    assert job.execute_in_process(instance=ticks.runner.instance).success
    assert open_stores(platform).registry.versions("buys")[0].state == "champion"


def test_sensors_and_schedules_run_from_the_start_when_asked(platform, world) -> None:
    definitions = project.build(platform, world, running=True)
    assert {s.default_status for s in definitions.sensors} == {dg.DefaultSensorStatus.RUNNING}
    found = {s.name: s.default_status for s in definitions.schedules}
    weekly = {name for name in found if name.startswith("reproduce_")}  # training again only to compare is not for a laptop
    assert weekly
    assert {found[name] for name in weekly} == {dg.DefaultScheduleStatus.STOPPED}
    assert {found[name] for name in found.keys() - weekly} == {dg.DefaultScheduleStatus.RUNNING}
