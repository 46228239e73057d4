"""Estimates of a window: judged by their bound, and scored by the labels of this and of earlier windows."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_assets.compute.estimation.estimator import EstimatedMetric, fit_estimator
from mlops_assets.compute.monitoring.estimates import EstimateReport, estimate_performance, score_estimates
from mlops_assets.compute.monitoring.verdicts import WindowMetric
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.errors import DefinitionError
from mlops_assets.monitoring import EstimatedPerformance
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, IN_TRAINING, NOT_ENOUGH
from tests.compute.estimation.test_estimator import fitted, split

MODEL: LogisticRegression = fitted()
HOLDOUT = split(3000, 1)
ESTIMATOR = fit_estimator(CachedPredictor(MODEL, HOLDOUT.X), HOLDOUT)


def predictions(rows: int, **more: object) -> pl.DataFrame:
    X = split(rows, 5).X
    shares = MODEL.predict_proba(X)[:, 1]
    return X.with_columns(
        pl.Series("__prediction", (shares > 0.5).astype(int)), pl.Series("__probability", shares), **{k: pl.lit(v) for k, v in more.items()}
    )


def report(rows: pl.DataFrame, *expectations: EstimatedPerformance, estimator=ESTIMATOR, **more) -> EstimateReport:
    found = estimate_performance(rows, expectations, estimator, **{"classes": [0, 1], "reference": {"roc_auc": 0.8}, **more})
    json.dumps(found.as_json(), allow_nan=False)
    return found


def test_an_estimate_is_judged_by_its_bound_and_says_how_sure_it_is() -> None:
    rows = predictions(600)
    value = report(rows, EstimatedPerformance("roc_auc", at_least=0.1)).metric("roc_auc").value
    good = report(rows, EstimatedPerformance("roc_auc", at_least=value - 0.01))
    assert (good.state, good.rows) == (GOOD, 600)
    low = report(rows, EstimatedPerformance("roc_auc", at_least=0.99))
    assert low.state == BREACH
    assert low.summary.endswith("< 0.99 on 600 predictions")
    near = value + 0.005
    assert "it may be chance" in report(rows, EstimatedPerformance("roc_auc", at_least=near)).summary
    assert report(rows, EstimatedPerformance("roc_auc", at_least=near, significant=True)).state == GOOD
    relative = report(rows, EstimatedPerformance("roc_auc", no_worse_than_reference_by=0.05), reference={"roc_auc": value + 0.2})
    assert (relative.state, relative.verdicts[0].bound) == (BREACH, pytest.approx(value + 0.15))


def test_what_is_not_estimated_says_why() -> None:
    bound = EstimatedPerformance("roc_auc", at_least=0.6)
    none = report(predictions(600), bound, estimator=None)
    assert (none.state, "trained before estimates were stored" in none.summary) == (CANNOT, True)
    small = report(predictions(600), bound, estimator=None, problem="the holdout has 40 rows, 100 are needed")
    assert small.summary == "cannot be measured: cannot be estimated: the holdout has 40 rows, 100 are needed"
    assert report(predictions(600).clear(), bound).summary == "not enough data: nothing was predicted"
    assert report(predictions(99), bound).summary == "not enough data: 99 predictions, 100 are needed"
    assert report(predictions(600).clear(), bound, rows_in_training=600).state == IN_TRAINING
    relative = EstimatedPerformance("roc_auc", no_worse_than_reference_by=0.1)
    assert report(predictions(600), relative, reference={"roc_auc": float("nan")}).state == NOT_ENOUGH
    assert report(predictions(600), EstimatedPerformance("adjusted_rand_score", at_least=0.1)).state == CANNOT
    assert report(predictions(600).drop("__probability"), bound).summary.endswith("the predictions have no probabilities")


def test_predictions_that_are_not_finite_are_left_out() -> None:
    rows = predictions(600)
    some = rows.with_columns(pl.when(pl.int_range(pl.len()) >= 100).then("__prediction").alias("__prediction"))
    assert report(some, EstimatedPerformance("roc_auc", at_least=0.1)).rows == 500
    assert report(rows.with_columns(__prediction=None), EstimatedPerformance("roc_auc", at_least=0.1)).state == NOT_ENOUGH
    unsure = pl.when(pl.int_range(pl.len()) >= 1).then("__probability").otherwise(float("nan"))
    found = report(rows.with_columns(unsure.alias("__probability")), EstimatedPerformance("roc_auc", at_least=0.1))
    assert (found.rows, found.state) == (599, GOOD)


def past(errors: list[float], holdout_errors: list[float]) -> pl.DataFrame:
    truth = np.full(len(errors), 0.7)
    return pl.DataFrame(
        {"metric": "roc_auc", "state": GOOD, "value": truth, "estimate": truth + errors, "reference": truth + holdout_errors}
    )


def test_an_estimate_that_is_no_better_than_the_holdout_says_so() -> None:
    found = EstimateReport(600, (EstimatedMetric("roc_auc", 0.72, 0.7, 0.74),), reference=(("roc_auc", 0.8),))
    truth = [WindowMetric("roc_auc", 0.71)]
    (better,) = score_estimates(found, truth, BREACH, past([0.01, 0.01, 0.01], [0.09, 0.09, 0.09]))
    assert (better.windows, better.error, better.holdout_error) == (4, pytest.approx(0.01), pytest.approx(0.09))
    assert better.text == (
        "roc_auc was estimated at 0.72 (0.7 to 0.74), the labels give 0.71, a difference of -0.01; "
        "mean absolute error over 4 windows: 0.01; with the holdout's value as the estimate: 0.09"
    )
    (worse,) = score_estimates(found, truth, GOOD, past([0.2, 0.2], [0.01, 0.01]))
    assert worse.text.endswith("no better than assuming the holdout's value")
    (early,) = score_estimates(found, truth, NOT_ENOUGH, past([], []))
    assert early.text.endswith("the labels do not suffice to check it")
    (first,) = score_estimates(EstimateReport(600, found.metrics), truth, GOOD, past([], []))
    assert first.text.endswith("a difference of -0.01")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"at_least": 0.1, "no_worse_than_reference_by": 0.1}, {"no_worse_than_reference_by": -0.1}, {"at_least": 0.1, "confidence": 1.0}],
)
def test_a_wrong_expectation_is_refused(arguments: dict) -> None:
    with pytest.raises(DefinitionError, match=r"EstimatedPerformance\('roc_auc'"):
        EstimatedPerformance("roc_auc", **arguments)
