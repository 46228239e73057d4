"""A breach of a monitor is one alert that names the window, the value, who is affected and the command that acts."""

from collections import Counter
from datetime import UTC, datetime

import dagster as dg

import mlops_assets as ml
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.monitoring.alerts import find_sources, run_alerts
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner
from tests.orchestrate.monitoring.channel_servers import HookServer, serve
from tests.projects import changing
from tests.projects import visits as project

DAYS, DAY = "2024-01-01...2024-01-25", "2024-01-20"
CHECK = "performance_report/watch_performance:roc_auc_at_least"


def build(instance, platform, hook: HookServer, bound: float) -> Runner:
    nouns = project.nouns(project.World())
    expected = ml.Performance("roc_auc", at_least=bound, min_labels=5)
    monitor = ml.Monitor("watch", of=nouns[-1], expectations=expected, min_rows=5)
    alerts = ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url))
    return Runner(ml.build_definitions([*nouns, monitor], platform=platform, alerts=alerts), instance)


def turn(runner: Runner) -> str:
    compiled = compiled_projects()[-1]
    sources = find_sources(runner.instance, runner.definitions.get_repository_def(), compiled.project, compiled.alerts)
    return run_alerts(open_stores(compiled.platform), sources, datetime.now(UTC))


def test_a_report_that_is_run_twice_is_one_alert_and_a_good_one_resolves_it(instance, platform) -> None:
    with serve(HookServer()) as hook:
        strict = build(instance, platform, hook, 0.999)
        strict(*project.DATA, partitions=DAYS)
        strict(*project.TRAIN)
        strict(project.PREDICTIONS, partitions=DAY)
        turn(strict)
        for _ in range(2):
            strict("performance_report/watch", partitions=DAY)
            turn(strict)
        assert hook.kinds == [[("opened", CHECK)]]
        (alert,) = hook.received[0]["alerts"]
        assert (alert["partitions"], alert["severity"], alert["command"]) == (DAY, "WARN", f"mlops monitor show watch --partition {DAY}")
        assert alert["value"] < alert["bound"] == 0.999
        model = compiled_projects()[-1].project.select(ml.Monitor)[0].model
        assert f"model/{model.name}_candidate" in alert["affected"]
        assert any(name.startswith("predictions/") for name in alert["affected"])
        mild = build(instance, platform, hook, 0.1)
        mild("performance_report/watch", partitions=DAY)
        turn(mild)
        assert hook.kinds[1:] == [[("resolved", CHECK)]]


def test_twenty_days_without_drift_open_no_alert_and_retrain_nothing(instance, platform, monkeypatch) -> None:
    monkeypatch.setenv("CHANGING_DAY", "99")
    days = changing.DAILY.get_partition_keys()
    expected = (ml.Drift(), ml.Performance("roc_auc", at_least=0.7))
    monitor = ml.Monitor("watch", of=changing.tomorrow, expectations=expected, on_failure=changing.POLICY)
    with serve(HookServer()) as hook:
        alerts = ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url))
        items = [changing.events, changing.examples, changing.answers, changing.no_worse, changing.tomorrow, monitor]
        runner = Runner(ml.build_definitions(items, platform=platform, alerts=alerts), instance)
        runner("dataset/events", partitions=f"{days[0]}...{days[9]}")
        runner("training_set/examples", "model/answers", "version/answers", "champion/answers")
        control = f"{days[10]}...{days[29]}"
        for key in ("dataset/events", "predictions/tomorrow", "drift_report/watch", "performance_report/watch"):
            runner(key, partitions=control)
        assert turn(runner) == "no new alert"
        assert hook.received == []
    stores = open_stores(platform)
    reports = stores.decisions.reports("watch")
    assert Counter((report.kind, report.state) for report in reports) == {("drift", "good"): 20, ("performance", "good"): 20}
    assert stores.alerts.episodes() == ()
    sensor = next(s for s in runner.definitions.sensors if s.name == "watch_retrains")
    with dg.build_sensor_context(instance=instance) as context:
        assert isinstance(sensor(context), dg.SkipReason)
    assert stores.decisions.decisions("answers") == ()
