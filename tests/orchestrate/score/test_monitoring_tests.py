"""The tests of the score about monitoring, and about versions that follow one another."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

import mlops_assets as ml
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.score import monitoring_tests
from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts
from mlops_assets.orchestrate.score.scoring import COMPUTED
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.decisions import WindowReport
from tests.conftest import Runner, open_dagster
from tests.projects import shop

GOOD_DAY, BAD_DAY = "2024-03-06", "2024-03-07"
WATCH = ml.Monitor(
    "score_watch",
    of=shop.shop_batch,
    partitions=shop.DAILY,
    expectations=(
        ml.Drift(),
        ml.Performance("roc_auc", at_least=0.7, min_labels=100),
        ml.Performance("roc_auc", no_worse_than_reference_by=0.1, min_labels=100),
    ),
    on_failure=ml.Retrain(max_age=timedelta(days=30), cooldown=timedelta(days=4)),
)
FAST = ml.Monitor("score_fast", of=shop.shop_api, partitions=shop.DAILY, expectations=(ml.monitoring.Latency(p95=0.05),))
NOUNS = [*(noun for noun in shop.NOUNS if noun is not shop.shop_watch), WATCH, FAST]
REPORTS = ("predictions/shop_batch", "drift_report/score_watch", "performance_report/score_watch")
WINDOW_END = datetime(2024, 3, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The facts of a model with one good window."""
    platform = ml.Platform.at(tmp_path_factory.mktemp("watched") / "home")
    with open_dagster(Path(platform.home) / "dagster") as instance:
        run = Runner(ml.build_definitions(NOUNS, platform=platform), instance)
        run(*shop.DATA, partitions="2024-03-01...2024-03-05")
        run(*shop.TRAIN)
        run(*shop.DATA, partitions=GOOD_DAY)
        run("training_set/examples")
        for report in REPORTS:
            run(report, partitions=GOOD_DAY)
        yield ScoreFacts(Project.from_items(NOUNS), Stores(platform), shop.buyer, instance)


@pytest.fixture
def facts(filled) -> ScoreFacts:
    return replace(filled)  # without what an earlier test has cached


def examine(facts: ScoreFacts, test: str) -> RubricResult:
    return COMPUTED[test](replace(facts))


def without_monitors(facts: ScoreFacts) -> ScoreFacts:
    nouns = [noun for noun in NOUNS if not isinstance(noun, ml.Monitor)]
    return replace(facts, project=Project.from_items(nouns))


def report_check(facts: ScoreFacts, key: str, name: str, *, passed: bool, **shown: object) -> None:
    check = dg.AssetCheckEvaluation(asset_key=asset_key(key), check_name=name, passed=passed, description="as reported", metadata=shown)
    facts.instance.report_runless_asset_event(check)


def switch_on(facts: ScoreFacts, name: str, kind: InstigatorType) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="definitions.py"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
    data = ScheduleInstigatorData("0 4 * * 1") if kind is InstigatorType.SCHEDULE else SensorInstigatorData()
    facts.instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.RUNNING, data))


@pytest.mark.parametrize(("test", "kind"), [("data_invariants", "drift"), ("prediction_quality", "performance")])
def test_the_newest_window_of_the_champion_decides(facts, test, kind) -> None:
    found = examine(facts, test)
    assert (found.points, found.evidence) == (1, f"score_watch: {GOOD_DAY} is good for version 1")
    assert examine(without_monitors(facts), test).points == 0
    breach = WindowReport(BAD_DAY, WINDOW_END, 1, "breach", kind, "far off")
    facts.stores.decisions.record_reports("score_watch", "buyer", [breach])
    found = examine(facts, test)
    assert (found.points, found.advice) == (0, "mlops monitor show score_watch")
    assert found.evidence == f"score_watch, {BAD_DAY}: breach, far off"
    good = replace(breach, state="good")
    facts.stores.decisions.record_reports("score_watch", "buyer", [good])
    assert examine(facts, test).points == 1


def test_a_window_of_another_version_is_no_evidence(facts) -> None:
    vars(facts)["champion"] = replace(facts.champion, version=2)
    assert COMPUTED["prediction_quality"](facts).evidence == "score_watch has evaluated no window of the champion"


def test_a_window_that_is_compared_with_the_holdout_correlates_the_metrics(facts) -> None:
    found = examine(facts, "metric_correlation")
    assert found.points == 1
    assert "roc_auc_no_worse_than_reference holds in" in found.evidence
    assert examine(without_monitors(facts), "metric_correlation").points == 0
    report_check(facts, "performance_report/score_watch", "roc_auc_no_worse_than_reference", passed=False)
    assert examine(facts, "metric_correlation").points == 0
    report_check(facts, "performance_report/score_watch", "roc_auc_no_worse_than_reference", passed=True)


def test_served_values_that_were_compared_show_that_nothing_is_skewed(facts) -> None:
    key = "predictions/shop_api"
    assert examine(facts, "skew").evidence == "no served value of shop_api was compared"
    report_check(facts, key, "no_skew", passed=True, **{"values compared": 0})
    assert examine(facts, "skew").points == 0
    report_check(facts, key, "no_skew", passed=True, **{"values compared": 40})
    found = examine(facts, "skew")
    assert found.points == 1
    assert found.evidence.startswith("shop_api: 40 values compared on 20")
    report_check(facts, key, "no_skew", passed=False, **{"values compared": 40})
    assert examine(facts, "skew").evidence == "shop_api: as reported"


def test_an_objective_of_latency_counts_once_a_window_is_judged(facts) -> None:
    assert examine(facts, "computing_performance").evidence == "score_fast, latency_p95: no window is evaluated"
    for state, points in (("not enough data", 0), ("breach", 0), ("good", 1)):
        report_check(facts, "system_report/score_fast", "latency_p95", passed=state != "breach", state=state)
        assert examine(facts, "computing_performance").points == points


def test_a_champion_is_not_stale_while_no_training_is_due(facts) -> None:
    found = examine(facts, "model_age")
    assert found.points == 1
    assert "Retrain(max_age=30 days, 0:00:00) of score_watch" in found.evidence
    eager = ml.Monitor(
        "score_watch",
        of=shop.shop_batch,
        expectations=ml.Performance("roc_auc", at_least=0.7),
        on_failure=ml.Retrain(max_age=timedelta(hours=1), cooldown=timedelta(0)),
    )
    due = replace(facts, project=Project.from_items([*(noun for noun in NOUNS if noun is not WATCH), eager]))
    assert examine(due, "model_age").points == 0
    assert examine(without_monitors(facts), "model_age").evidence == "nothing bounds the age of the champion"


def test_a_schedule_bounds_the_age_when_it_is_on_and_the_champion_is_newer_than_its_ticks(facts) -> None:
    scheduled = replace(without_monitors(facts), model=replace(shop.buyer, cron_schedule="0 4 * * 1"))
    assert examine(scheduled, "model_age").evidence == "retrain_buyer_schedule (0 4 * * 1) is off"
    switch_on(facts, "retrain_buyer_schedule", InstigatorType.SCHEDULE)
    assert examine(scheduled, "model_age").points == 1
    old = replace(facts.champion, created_at=datetime(2024, 1, 1, tzinfo=UTC))
    vars(scheduled)["champion"] = old
    assert "before the last two ticks" in COMPUTED["model_age"](scheduled).evidence


def test_alerts_count_when_they_are_sent_and_tables_have_schemas(facts, monkeypatch) -> None:
    alerts = ml.monitoring.Alerts(ml.monitoring.Webhook("http://127.0.0.1:9/hook"))
    declared = replace(facts, alerts=alerts)
    assert examine(declared, "dependency_changes").evidence == f"alerts to {alerts.channels[0].name} are not sent: mlops_alerts is off"
    switch_on(facts, "mlops_alerts", InstigatorType.SENSOR)
    assert "no schema" in examine(declared, "dependency_changes").evidence
    monkeypatch.setattr(monitoring_tests, "examine_schemas", lambda _facts: RubricResult(1, "visits: Visit"))
    assert examine(declared, "dependency_changes").points == 1
    assert examine(facts, "dependency_changes").points == 0


def test_a_model_that_nothing_serves_is_not_shown_to_be_stable(facts) -> None:
    assert examine(facts, "numerical_stability").points == 1
    nouns = [shop.visits, shop.crowds, shop.crowding, shop.examples, shop.buyer]
    assert examine(replace(facts, project=Project.from_items(nouns)), "numerical_stability").points == 0


def test_an_earlier_champion_earns_half_a_point_and_a_rollback_the_other(facts, tmp_path) -> None:
    assert examine(facts, "rollback").evidence == "no earlier champion can be restored"
    world = tmp_path / "world.json"
    world.write_text(json.dumps({"shift_from": 6}))
    os.environ["SHOP_WORLD"] = str(world)
    try:
        run = Runner(ml.build_definitions(NOUNS, platform=facts.stores.platform), facts.instance)
        run(*shop.DATA, partitions=BAD_DAY)
        run(*shop.TRAIN)
    finally:
        del os.environ["SHOP_WORLD"]
    found = examine(facts, "rollback")
    assert (found.points, found.advice) == (0.5, "mlops models rollback buyer --reason WHY")
    facts.stores.registry.rollback("buyer", actor="Ada", reason="practice")
    found = examine(facts, "rollback")
    assert found.points == 1
    assert found.evidence.startswith("Ada rolled back to version 1 on 20")


def test_a_second_service_whose_values_were_not_compared_earns_no_point(facts) -> None:
    report_check(facts, "predictions/shop_api", "no_skew", passed=True, **{"values compared": 40})
    assert examine(facts, "skew").points == 1
    second = ml.Service("second_api", model=shop.buyer)
    more = replace(facts, project=Project.from_items([*NOUNS, second]))
    assert examine(more, "skew").evidence == "no served value of second_api was compared"
