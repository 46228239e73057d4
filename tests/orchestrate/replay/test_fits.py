"""Fits are kept for as long as nothing that decides them changes; their errors are those of a production run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import mlops_assets as ml
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.replay.fits import FitCache, FitRequest
from mlops_assets.orchestrate.replay.history import History
from tests.projects import changing

AS_OF = datetime(2024, 1, 12, tzinfo=UTC)
JUDGED = FitRequest(AS_OF, None, "judged")


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return pl.concat([changing.rows_of(day) for day in range(20)]).sort("at")


def cache(rows: pl.DataFrame, folder, model=changing.answers, columns=("a", "b")) -> FitCache:
    return FitCache(History(model.training_set, rows, columns), model, folder, 1, lambda: model)


def declare(**changes: object):
    """Return the model with another training set."""
    return replace(changing.answers, training_set=replace(changing.examples, **changes))


def test_equal_requests_share_a_fit_and_a_later_replay_finds_it(rows, tmp_path):
    first, later = cache(rows, tmp_path), cache(rows, tmp_path)
    assert first.fit(JUDGED) is first.fit(JUDGED)
    later.fit(JUDGED)
    assert (first.new, later.new) == (1, 0)


@pytest.mark.parametrize(
    "model",
    [
        declare(split=ml.TimeSplit(holdout=timedelta(days=5))),
        declare(label="id"),
        declare(label_known_at=None),
        replace(changing.answers, positive=0),
    ],
)
def test_a_fit_is_made_again_when_its_declaration_changes(rows, tmp_path, model):
    assert cache(rows, tmp_path).fit(JUDGED).error == ""
    changed = cache(rows, tmp_path, model)
    changed.fit(JUDGED)
    assert changed.new == 1


def test_a_fit_uses_only_rows_whose_label_was_known(rows, tmp_path):
    noon = AS_OF + timedelta(hours=12)
    fit = cache(rows, tmp_path).fit(FitRequest(noon, None, "all"))
    late = rows.filter((pl.col("at") < noon) & (pl.col("known_at") > noon)).height
    assert late > 0
    assert fit.facts["rows"] == rows.filter(pl.col("at") < noon).height - late
    assert fit.facts["fitted"].last <= noon - timedelta(hours=3)
    assert fit.facts["fitted"].labels_known <= noon


def test_a_copy_of_the_label_fails_the_training_as_in_production(rows, tmp_path):
    fit = cache(rows.with_columns(copy="y"), tmp_path, columns=("a", "copy")).fit(JUDGED)
    assert "column 'copy' of X is the label 'y'" in fit.error
    assert not list((tmp_path / "fits").glob("*")), "the next replay tries again"


@ml.model(training_set=changing.examples, metrics=["roc_auc"])
def strict(train: ml.Split) -> LogisticRegression:
    """Refuses every category that it has not seen."""
    encoder = OneHotEncoder(handle_unknown="error", sparse_output=False)
    return make_pipeline(encoder, LogisticRegression()).fit(train.X, train.y)


def test_a_row_that_cannot_be_predicted_is_named_only_where_the_version_serves(rows, tmp_path):
    kinds = rows.with_columns(kind=pl.when(pl.col("at") < AS_OF + timedelta(days=3)).then(pl.lit("old")).otherwise(pl.lit("new")))
    fits = cache(kinds, tmp_path, strict, columns=("kind",))
    fit, known = fits.fit(FitRequest(AS_OF, None, "all")), kinds.filter(pl.col("kind") == "old").height
    labels, shares = fit.predict_rows(known - 200, known)
    assert (len(labels), shares.shape) == (200, (200, 2))
    with pytest.raises(DataError, match="cannot predict"):
        fit.predict_rows(known - 200, known + 200)


@ml.model(training_set=changing.examples, metrics=["roc_auc"])
def unseeded(train: ml.Split) -> RandomForestClassifier:
    """Draws from the global generator."""
    return RandomForestClassifier(5).fit(train.X, train.y)


def test_fits_without_a_seed_are_the_same_when_policies_ask_at_once(rows, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    requests = [FitRequest(AS_OF + timedelta(days=day), None, "all") for day in range(4)]
    found = []
    for name in ("one", "two"):
        fits = cache(rows, tmp_path / name, unseeded)
        with ThreadPoolExecutor(4) as threads:
            found.append([fit.predict_rows(0, 500)[1].tolist() for fit in threads.map(fits.fit, requests)])
    assert found[0] == found[1]
