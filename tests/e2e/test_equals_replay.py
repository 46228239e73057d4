"""Days that are lived with the real daemon and a service are replayed: the same trainings, promotions, rejections, breaches and versions."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from mlops_assets.compute.monitoring.decide import decide, next_action
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.retraining.decisions import collect_facts
from mlops_assets.serving.http import control
from mlops_assets.values.decisions import Hold
from tests.client import predict
from tests.commands import run_mlops
from tests.conftest import ROOT
from tests.e2e.project_daemon import ProjectDaemon, ServedWorld
from tests.orchestrate.monitoring.channel_servers import HookServer, serve
from tests.projects import changing, served_changing

PROJECT, DAYS = "tests/projects/served_changing.py", changing.DAILY.get_partition_keys()
FIRST, CHANGE, LAST = 8, 10, 14  # days of 2024 after January 1: those before FIRST train version 1, LAST is not lived
CHECK = "performance_report/served_watch_performance:roc_auc_at_least"


class World(ServedWorld):
    """A day passes when its events have come and the loop has settled, so that a version serves whole days, as in a replay."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.project, self.answered = compiled_projects()[-1].project, {}

    def live(self, day: int) -> None:
        """Ask the service about the events of a day, let their labels arrive, and wait for what the daemon makes of them."""
        self.answered[DAYS[day]] = predict(self.url, served_changing.requests_of(day))["version"]
        self.run(served_changing.DATA, partitions=DAYS[day])
        self.until(f"the report of {DAYS[day]}", lambda: self.reported(DAYS[day], "performance") in ("good", "breach"))
        self.until("the loop waits for the next day", self.is_settled)
        self.until("the service answers with the champion", lambda: self.versions() == {self.champion()})

    def is_settled(self) -> bool:
        """Return whether nothing runs, and no training is decided on by what is known today."""
        decided = {decision.id for decision in self.at.decisions.decisions(self.model)}
        trained = {training.decision for training in self.at.decisions.trainings(self.model)}
        # A sensor opens a decision before Dagster has the run that it asks for.
        if not decided <= trained or not all(run.is_finished for run in self.instance.get_runs()):
            return False
        facts = collect_facts(self.at, self.project, self.monitor, self.instance)
        return isinstance(decide(facts), Hold) and isinstance(next_action(facts, datetime.now(UTC)), Hold)

    def versions(self) -> set[int | None]:
        """Return the versions of the service's workers."""
        return {worker.version for worker in control.status(self.platform.home, self.monitor.of.name).workers}


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with serve(HookServer()) as server:
        yield server


@pytest.fixture
def world(tmp_path, monkeypatch, hook) -> Iterator[World]:
    variables = {"CHANGING_DAY": str(CHANGE), "CHANGING_LAG": "0"}  # production learns a label with the row
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    daemon = ProjectDaemon(tmp_path / "home", PROJECT, **variables, ALERT_HOOK=hook.url)
    with dg.DagsterInstance.from_config(str(daemon.dagster_home)) as instance:
        found = World(daemon, instance, served_changing.ITEMS, served_changing.served_watch)
        try:
            found.run(served_changing.DATA, partitions=f"{DAYS[0]}...{DAYS[FIRST - 1]}")
            found.run(*served_changing.TRAIN)
            found.run("service/answers_api")
            yield found
        finally:
            daemon.kill()
            assert not control.stop(found.platform.home, "answers_api").running


def list_alerts(hook: HookServer, subject: str) -> list[tuple[str, str]]:
    """Return the kind and the partitions of each alert about a subject."""
    return [(alert["kind"], alert["partitions"]) for body in hook.received for alert in body["alerts"] if alert["subject"] == subject]


def replay(world: World) -> dict:
    line = ["replay", "-f", PROJECT, "--from", DAYS[FIRST], "--to", DAYS[LAST], "--policy", "loop", "--processes", "1", "--json", "-"]
    done = run_mlops(line, cwd=ROOT, env=world.daemon.environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["policies"]["loop"]


def test_the_daemon_and_a_replay_make_the_same_decisions(world, hook) -> None:
    world.daemon.start()
    for day in range(FIRST, CHANGE + 1):
        world.live(day)
    world.until("the alert is opened", lambda: list_alerts(hook, CHECK) == [("opened", DAYS[CHANGE])])
    for day in range(CHANGE + 1, LAST):
        world.live(day)
    world.until("the alert is resolved", lambda: [kind for kind, _ in list_alerts(hook, CHECK)] == ["opened", "resolved"])

    loop = replay(world)

    decisions = {decision.id: decision for decision in world.at.decisions.decisions("answers")}
    trainings = [training for training in world.at.decisions.trainings("answers") if training.decision]
    lived = [(training.as_of.isoformat(), training.outcome) for training in sorted(trainings, key=lambda t: t.as_of)]
    replayed = [(t["time"], "promoted" if t["promoted"] else "rejected") for t in loop["trainings"][1:]]
    assert replayed == lived
    assert {outcome for _, outcome in lived} == {"promoted", "rejected"}
    assert [decisions[t.decision].opened for t in trainings] == [t.as_of for t in trainings]
    reports = {report.partition: report for report in world.at.decisions.reports("served_watch")}
    breached = [partition for partition, report in reports.items() if report.state == "breach"]
    assert sorted(alarm["window"] for alarm in loop["alarms"]) == sorted(breached) != []
    assert {window["window"]: window["version"] for window in loop["windows"]} == world.answered
    assert {partition: report.version for partition, report in reports.items()} == world.answered
