"""A replay decides as production decided: the same days are lived with the real sensor and jobs, and then replayed."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

import mlops_assets as ml
from mlops_assets.cli.options import console
from mlops_assets.cli.project import load
from mlops_assets.cli.replay import preparation
from mlops_assets.orchestrate.reproduction.reproduction import reproduce
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.decisions import ESTIMATED
from tests.conftest import Runner
from tests.memory_instance import open_memory_instance
from tests.projects import changing

FIRST, LAST = 10, 25  # days that are lived; the label changes its meaning on day 14
DAYS = changing.DAILY.get_partition_keys()


class Production:
    """The project on a platform of its own, lived day by day with the sensor and the jobs that users have."""

    def __init__(self, home: Path, policy: str, instance: dg.DagsterInstance) -> None:
        self.platform, self.instance, self.policy = ml.Platform.at(home), instance, policy
        declared = changing.list_items(changing.POLICIES[policy])
        self.definitions, self.estimates = ml.build_definitions(declared, platform=self.platform), bool(declared[-1].estimates)
        self.run = Runner(self.definitions, instance)

    def begin(self) -> None:
        self.run("dataset/events", partitions=f"{DAYS[0]}...{DAYS[FIRST - 1]}")
        self.run("training_set/examples", "model/answers", "version/answers", "champion/answers")

    def live(self, day: int) -> None:
        """Predict a day, then learn its labels, look at them and do what the sensor asks for."""
        self.run("dataset/events", "predictions/tomorrow", partitions=DAYS[day])
        if self.estimates:
            self.run("estimate_report/watch", partitions=DAYS[day])
        self.run("performance_report/watch", partitions=DAYS[day])
        asked = self.tick()
        if isinstance(asked, dg.RunRequest):
            job = self.definitions.resolve_job_def(asked.job_name)
            job.execute_in_process(instance=self.instance, tags=asked.tags, raise_on_error=False)  # fails for a rejected candidate

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        sensor = next(s for s in self.definitions.sensors if s.name == "watch_retrains")
        with dg.build_sensor_context(instance=self.instance) as context:
            return sensor(context)


@pytest.fixture(params=sorted(changing.POLICIES))
def production(request, tmp_path, monkeypatch):
    monkeypatch.setenv("CHANGING_DAY", "14")
    monkeypatch.setenv("CHANGING_LAG", "0")  # production learns a label with the row
    monkeypatch.setenv("CHANGING_SPREAD", "0.2" if request.param == "estimates" else "1")  # the first version becomes unsure
    with open_memory_instance() as instance:
        lived = Production(tmp_path / "home", request.param, instance)
        lived.begin()
        for day in range(FIRST, LAST):
            lived.live(day)
        yield lived


def test_a_replay_makes_the_decisions_that_production_made(production, tmp_path, monkeypatch):
    file = tmp_path / "definitions.py"
    file.write_text(
        "import mlops_assets as ml\nfrom tests.projects.changing import POLICIES, list_items\n"
        f"defs = ml.build_definitions(list_items(POLICIES[{production.policy!r}]), platform=ml.Platform.at({str(tmp_path / 'home')!r}))\n"
    )
    monkeypatch.chdir(tmp_path)
    request = preparation.ReplayRequest(
        DAYS[FIRST], DAYS[LAST], ("loop",), suggest=False, model="", by=None, metric="", processes=1, refresh=False
    )

    replayed = preparation.run(load(str(file)), str(file), request, console()).result.policies[0]

    stores = open_stores(production.platform)
    end = changing.FIRST + timedelta(days=LAST)  # a version that is promoted then serves no replayed window
    decided = (decision for decision in stores.decisions.decisions("answers") if decision.opened < end)
    decisions = sorted(decided, key=lambda decision: decision.opened)
    assert decisions, "production has never retrained"
    assert [event.time for event in replayed.retrainings] == [decision.opened for decision in decisions]
    in_time = [t for t in stores.decisions.trainings("answers") if t.decision and t.as_of < end and t.version]
    assert replayed.promotions == len({t.version for t in in_time}) > 0
    alarms = {(alarm.window, alarm.version, alarm.kind) for alarm in replayed.alarms}
    assert alarms == {(r.partition, r.version, r.kind) for r in stores.decisions.reports("watch") if r.state == "breach"}
    assert [event.reason for event in replayed.retrainings] == [decision.reason for decision in decisions]
    served = {report.partition: (report.version,) for report in stores.decisions.reports("watch")}
    assert {window.window: window.versions for window in replayed.windows} == served
    spans = {run.record["facts"]["reads"].get("train_window") for run in stores.tracker.search("kind = 'training'", limit=100)}
    champion = stores.registry.champion("answers")
    assert reproduce(stores, champion, changing.answers.function.function).verdict == "IDENTICAL"
    assert (spans == {None}) == (production.policy != "follow")
    assert any(kind == ESTIMATED for *_, kind in alarms) == production.estimates
