"""A model that sees a copy of its label is not trained, not registered and not promoted, unless the project allows the column by name."""

import numpy as np
import polars as pl
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner

STEPS = ("dataset/trips", "training_set/delays", "model/delay", "version/delay", "champion/delay")
TRAINED = []


def definitions(platform, **options):
    @ml.dataset(key="id")
    def trips() -> pl.DataFrame:
        rng = np.random.default_rng(0)
        delay = rng.normal(20, 30, 400).round(1)
        return pl.DataFrame({"id": range(400), "distance": rng.normal(size=400), "arrived": delay * 60 + 5, "delay": delay})

    @ml.training_set(columns=["distance", "arrived"], label="delay", split=ml.GroupSplit("id"), **options)
    def delays(trips: pl.DataFrame) -> pl.DataFrame:
        return trips

    @ml.model(training_set=delays, metrics=["r2"], gates=[ml.Gate("r2", at_least=0.5)])
    def delay(train: ml.Split) -> LinearRegression:
        TRAINED.append(1)
        return LinearRegression().fit(train.X, train.y)

    return ml.build_definitions([trips, delays, delay], platform=platform)


def test_a_copy_of_the_label_stops_the_training_before_it_costs_anything(platform, instance) -> None:
    TRAINED.clear()
    refused = Runner(definitions(platform), instance).error(*STEPS)
    assert "'arrived' of X is a monotone function of the label 'delay'" in refused
    assert "the holdout of 'training_set/delays'" in refused
    assert '@ml.training_set(label_copies=["arrived"])' in refused
    assert TRAINED == []
    assert open_stores(platform).registry.versions("delay") == []


def test_the_project_allows_a_copy_by_name(platform, instance) -> None:
    Runner(definitions(platform, label_copies="arrived"), instance)(*STEPS)
    assert open_stores(platform).registry.champion("delay").version == 1


def test_an_allowed_name_that_is_no_feature_is_refused(platform, instance) -> None:
    assert "label_copies= names 'arived'" in Runner(definitions(platform, label_copies=["arived"]), instance).error(*STEPS)
