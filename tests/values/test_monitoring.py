"""Declarations of monitors: what cannot be is refused where it is written, with a hint."""

from datetime import timedelta

import dagster as dg
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.drift import Drift
from mlops_assets.values.monitoring import Monitor, Performance

DAILY = dg.DailyPartitionsDefinition("2024-01-01")


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def visits(window: ml.TimeWindow) -> pl.LazyFrame:
    """Visits."""
    raise NotImplementedError


@ml.training_set(label="bought", columns=["x"], features=[], split=ml.GroupSplit("shop"))
def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
    """Examples."""
    raise NotImplementedError


@ml.model(training_set=examples, metrics=["roc_auc"])
def buyer(train: ml.Split) -> LogisticRegression:
    """Buyers."""
    raise NotImplementedError


API = ml.Service("api", model=buyer)
BATCH = ml.BatchPrediction("batch", model=buyer, dataset=visits)


def test_a_monitor_says_what_it_watches() -> None:
    watch = Monitor(
        "watch", of=API, partitions=DAILY, expectations=(Drift("x"), Performance("roc_auc", at_least=0.6)), on_failure=Retrain()
    )
    assert (watch.drift_key, watch.performance_key, watch.predictions_key) == (
        "drift_report/watch",
        "performance_report/watch",
        "predictions/api",
    )
    assert (watch.model, watch.drift, watch.performance[0].threshold) == (buyer, Drift(("x",)), 0.6)
    assert hash(watch) == hash(Monitor("watch", of=API, partitions=DAILY, expectations=list(watch.expectations), on_failure=Retrain()))
    batch = Monitor("watch", of=BATCH, owners=["team:ml"])
    assert (batch.partitions, batch.predictions_key, batch.expectations, batch.performance) == (DAILY, "predictions/batch", (Drift(),), ())
    assert batch.options.owners == ("team:ml",)
    assert [e.name for e in watch.expectations] == ["no_drift", "roc_auc_at_least"]
    assert Performance("r2", no_worse_than_reference_by=0.1, slices="shop").name == "r2_no_worse_than_reference"


def test_a_threshold_of_a_column_is_part_of_the_declaration() -> None:
    declared = Drift({"wind": None, "temp": ml.monitoring.PSI(0.2), "carrier": ml.monitoring.JensenShannon(0.1)})
    assert declared.columns == ("wind", "temp", "carrier")
    assert declared.thresholds == {"temp": ml.monitoring.PSI(0.2), "carrier": ml.monitoring.JensenShannon(0.1)}
    assert declared == Drift({"wind": None, "temp": ml.monitoring.PSI(0.2), "carrier": ml.monitoring.JensenShannon(0.1)})
    assert len({declared, Drift({"wind": None, "temp": ml.monitoring.PSI(0.3)}), Drift(["wind", "temp", "carrier"])}) == 3
    assert Drift({"wind": None}) == Drift("wind")


def test_a_domain_classifier_is_opt_in() -> None:
    assert Drift().classifier is None
    assert Drift(classifier=True).classifier == ml.monitoring.DomainClassifier(max_rows=1_000)
    assert Drift(classifier=ml.monitoring.DomainClassifier(max_rows=500)) != Drift(classifier=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": buyer, "partitions": DAILY}, "takes a Service or a BatchPrediction"),
        ({"of": API}, "has no windows"),
        ({"of": API, "partitions": dg.StaticPartitionsDefinition(["a"])}, "partitions of type StaticPartitionsDefinition"),
        ({"of": BATCH, "expectations": ()}, "has no expectations"),
        ({"of": BATCH, "expectations": (Drift(), Drift("x"))}, "expects 'no_drift' twice"),
        ({"of": BATCH, "expectations": "roc_auc"}, "expects 'roc_auc'"),
        ({"of": BATCH, "on_failure": Retrain()}, "drift alone never retrains"),
        ({"of": BATCH, "min_rows": 0}, "min_rows=0"),
        ({"of": BATCH, "name": "My watch"}, "cannot be named"),
    ],
)
def test_monitors_that_cannot_be_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as refused:
        Monitor(**{"name": "watch", **arguments})
    assert refused.value.hint


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Drift(false_alarm_rate=0),
        lambda: Drift(min_psi=-0.1),
        lambda: Drift(()),
        lambda: Drift({}),
        lambda: Drift({"temp": 0.2}),
        lambda: ml.monitoring.PSI(-0.1),
        lambda: ml.monitoring.KolmogorovSmirnov(1.0),
        lambda: ml.monitoring.Wasserstein(float("nan")),
        lambda: ml.monitoring.JensenShannon(2),
        lambda: ml.monitoring.DomainClassifier(max_rows=99),
        lambda: Drift(classifier=True, reference=ml.monitoring.SameWeeks()),
        lambda: Retrain(after=0),
        lambda: Retrain(cooldown=-timedelta(days=1)),
        lambda: Retrain(max_attempts=0),
    ],
)
def test_expectations_and_policies_that_cannot_be_are_refused(broken) -> None:
    with pytest.raises(DefinitionError) as refused:
        broken()
    assert refused.value.hint


@pytest.mark.parametrize("kind", ["performance", "estimated"])
def test_a_retraining_on_reports_that_the_monitor_does_not_make_is_refused(kind):
    with pytest.raises(DefinitionError, match="but"):
        ml.Monitor("watch", of=BATCH, expectations=ml.Drift(), on_failure=ml.Retrain(on=(kind,)))
