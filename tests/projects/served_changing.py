"""The changing project behind a service: its monitor reports each day, retrains after a breach and alerts to the webhook ALERT_HOOK."""

import os
from datetime import timedelta

import mlops_assets as ml
from tests.projects.changing import DAILY, answers, events, examples, no_worse, rows_of

answers_api = ml.Service("answers_api", model=answers)
# A candidate is judged on the newest day: the first one after the change is trained on other days only, and is rejected.
MENDING = ml.Retrain(
    cooldown=timedelta(days=1), after_rejection=1, train_windows=(None, timedelta(days=2)), judge_on=timedelta(days=1), refit=True
)
served_watch = ml.Monitor(
    "served_watch",
    of=answers_api,
    partitions=DAILY,
    expectations=ml.Performance("roc_auc", at_least=0.7, min_labels=100),
    on_failure=MENDING,
)
ITEMS = [events, examples, answers, no_worse, answers_api, served_watch]
DATA = "dataset/events"
TRAIN = ("training_set/examples", "model/answers", "version/answers", "champion/answers")


def requests_of(day: int) -> list[dict]:
    """Return what a client knows of each event of a day when it happens."""
    rows = rows_of(day).select("id", "at", "a", "b")
    return [row | {"at": row["at"].isoformat()} for row in rows.iter_rows(named=True)]


HOOK = os.environ.get("ALERT_HOOK", "")
defs = ml.build_definitions(
    ITEMS,
    running=bool(HOOK),
    automation_interval=timedelta(seconds=5),
    alerts=ml.monitoring.Alerts(ml.monitoring.Webhook(HOOK)) if HOOK else None,
)
