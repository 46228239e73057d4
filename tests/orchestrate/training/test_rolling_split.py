"""A model that does not tune needs no validation part; a rolling window leaves old rows out of the training."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.reproduction.reproduction import reproduce
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata

BASE, DAY = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)


@ml.dataset(key="id")
def readings() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    at = pl.Series([BASE + DAY * (i / 4) for i in range(400)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"id": range(400), "at": at, "x": x, "y": np.where(np.arange(400) < 200, -3, 3) * x + rng.normal(size=400)})


@ml.training_set(columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(train=30 * DAY, holdout=10 * DAY))
def recent(readings: pl.DataFrame) -> pl.DataFrame:
    return readings


@ml.model(training_set=recent, metrics=["r2"], gates=[ml.Gate("r2", at_least=0.8)])
def slope(train: ml.Split) -> LinearRegression:
    return LinearRegression().fit(train.X, train.y)


def test_a_rolling_window_without_validation_trains_serves_a_card_and_is_reproduced(platform, instance) -> None:
    runner = Runner(ml.build_definitions([readings, recent, slope], platform=platform), instance)
    result = runner("dataset/readings", "training_set/recent", "model/slope", "version/slope", "champion/slope")
    counts = metadata(result, "training_set/recent")
    assert (counts["train rows"], counts["validation rows"], counts["holdout rows"]) == (120, 0, 40)
    assert metadata(result, "model/slope")["r2"] > 0.8, "the rows before the window have the opposite slope"
    card = metadata(result, "version/slope")["model card"]
    assert "not made" not in card
    assert "| validation |" not in card
    stores = open_stores(platform)
    assert reproduce(stores, stores.registry.champion("slope"), slope.function.function).is_reproducible


def test_a_model_that_tunes_needs_a_validation_part() -> None:
    with pytest.raises(
        DefinitionError, match="model 'tunes' takes `validation: ml.Split`, but 'training_set/recent' has no validation part"
    ):

        @ml.model(training_set=recent, metrics=["r2"])
        def tunes(train: ml.Split, validation: ml.Split) -> LinearRegression:
            raise AssertionError(train, validation)


@pytest.mark.parametrize(
    ("spans", "why"), [({}, "has no holdout"), ({"holdout": -DAY}, "an empty part"), ({"holdout": DAY, "train": 0 * DAY}, "an empty part")]
)
def test_spans_that_mean_nothing_are_refused(spans, why) -> None:
    with pytest.raises(DefinitionError, match=why):
        ml.TimeSplit(**spans)
