"""A project whose models are stored in each form; a service answers with two of them."""

import numpy as np
import polars as pl
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mlops_assets as ml


@ml.dataset(key="id")
def people() -> pl.DataFrame:
    """Six hundred people."""
    rng = np.random.default_rng(7)
    age, wage = rng.normal(40, 9, 600), rng.normal(0, 1, 600)
    town = rng.choice(["Bonn", "Köln", "Ulm"], 600)
    bought = rng.random(600) < 1 / (1 + np.exp(-(age - 40) / 4 - wage - (town == "Ulm")))
    return pl.DataFrame({"id": range(600), "age": age, "wage": wage, "town": town, "bought": bought})


@ml.training_set(columns=["age", "wage", "town"], label="bought", split=ml.GroupSplit("id", validation=0.1, holdout=0.3))
def examples(people: pl.LazyFrame) -> pl.LazyFrame:
    """All of them."""
    return people


def encoded():
    """Return what makes numbers of a row."""
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["town"]),
        (make_pipeline(SimpleImputer(), StandardScaler()), ["age", "wage"]),
    )


GATES = [ml.Gate("roc_auc", at_least=0.5), ml.Gate("roc_auc", no_worse_than_champion_by=0.5)]


@ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], gates=GATES, format="native")
def boosted(train: ml.Split) -> object:
    """LightGBM after an encoder."""
    last = LGBMClassifier(n_estimators=12, verbose=-1, random_state=1, n_jobs=1)
    return make_pipeline(encoded(), last.set_params()).fit(train.X, train.y)


@ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], gates=GATES, format="onnx")
def linear(train: ml.Split) -> object:
    """A graph that agrees."""
    return make_pipeline(encoded(), LogisticRegression()).fit(train.X, train.y)


@ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], gates=GATES, format="onnx")
def trees(train: ml.Split) -> object:
    """A graph that does not agree."""
    return make_pipeline(encoded(), HistGradientBoostingClassifier(max_iter=9, random_state=1)).fit(train.X, train.y)


tomorrow = [ml.BatchPrediction(f"{m.name}_tomorrow", model=m, dataset=people) for m in (boosted, linear)]
services = [ml.Service(f"{m.name}_api", model=m, workers=1) for m in (boosted, linear)]
NOUNS = [people, examples, boosted, linear, trees, *tomorrow, *services]
defs = ml.build_definitions(NOUNS)
