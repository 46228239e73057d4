"""A user's columns may have the names that the package uses itself: trained, promoted, predicted in batch, nothing overwritten."""

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from mlops_assets.compute.tables.own_columns import PREDICTION_COLUMNS, rename_from_table
from mlops_assets.orchestrate.compiler.executor import tagging_in_process_executor
from mlops_assets.stores.platform.stores import open_stores
from tests.memory_instance import open_memory_instance

NAMES = ("split", "prediction", "missing", "version", "probability", "row", "model_version", "logged_at", "run_id", "input_hash")
KEY, ROWS = "prediction_id", 600


@ml.dataset(key=KEY)
def examples() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=ROWS) for name in NAMES}
    shop = [f"s{i % 40}" for i in range(ROWS)]
    return pl.DataFrame({KEY: [f"k{i}" for i in range(ROWS)], "shop": shop, **columns, "late": columns["split"] > 0})


@ml.training_set(columns=NAMES, label="late", split=ml.GroupSplit("shop"))
def learned(examples: pl.DataFrame) -> pl.DataFrame:
    return examples


@ml.model(training_set=learned, metrics=["roc_auc"], gates=[ml.Gate("roc_auc", at_least=0.9)])
def clf(train: ml.Split) -> LogisticRegression:
    return LogisticRegression().fit(train.X, train.y)


daily = ml.BatchPrediction("daily", model=clf, dataset=examples)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    platform = ml.Platform.at(tmp_path_factory.mktemp("names"))
    definitions = ml.build_definitions([examples, learned, clf, daily], platform=platform, executor=tagging_in_process_executor)
    with open_memory_instance() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, raise_on_error=True).success
    return open_stores(platform)


def test_a_feature_named_split_teaches_the_model_its_own_values(home):
    stored = home.lake.read("training_set/learned")
    assert set(stored["split"].unique()) == {"train", "validation", "holdout"}
    assert stored["__input_split"].dtype == pl.Float64
    assert home.registry.champion("clf") is not None


def test_predictions_hold_both_the_answer_and_the_feature_of_that_name(home):
    stored = home.lake.read("predictions/daily")
    rows = rename_from_table(stored, PREDICTION_COLUMNS)
    given = home.lake.read("dataset/examples")
    assert rows.select(KEY, *NAMES).sort(KEY).equals(given.select(KEY, *NAMES).sort(KEY))
    truth = given.join(rows.select(KEY, "__prediction"), on=KEY)
    assert (truth["__prediction"] == truth["late"]).mean() > 0.9
    assert stored["prediction"].dtype == pl.Boolean
    assert stored["model_version"].to_list() == [1] * ROWS
