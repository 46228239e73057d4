"""The shop with what a console shows: a monitor of batch predictions, a model that waits for approval, and a consumer outside of the package."""

from datetime import timedelta

import dagster as dg
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import mlops_assets as ml
from tests.projects import shop

batch_watch = ml.Monitor(
    "batch_watch",
    of=shop.shop_batch,
    partitions=shop.DAILY,
    expectations=(ml.Drift(), ml.Performance("roc_auc", at_least=0.7, min_labels=100)),
    on_failure=ml.Retrain(cooldown=timedelta(days=4)),
)


@ml.model(training_set=shop.examples, metrics=["roc_auc"], gates=[ml.Gate("roc_auc", at_least=0.55)], approval=True)
def careful_buyer(train: ml.Split) -> Pipeline:
    """The same, for a person to approve."""
    for step in range(20):
        ml.runs.log_metric("loss", 1 / (step + 1), step=step)
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(train.X, train.y)


@dg.asset(deps=[dg.AssetKey(["predictions", "shop_batch_predictions"]), dg.AssetKey(["features", "crowds_features"])])
def staffing() -> None:
    """A plan that another team makes of the predictions."""


NOUNS = [*shop.NOUNS, batch_watch, careful_buyer, staffing]
REPORTS = ("predictions/shop_batch", "drift_report/batch_watch", "performance_report/batch_watch")
CAREFUL = ("model/careful_buyer", "version/careful_buyer")
defs = ml.build_definitions(NOUNS)
