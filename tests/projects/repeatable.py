"""A project whose training depends on everything that a record holds: data and their order, code, a parameter, a seed."""

import os

import dagster as dg
import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier

import mlops_assets as ml

DEPTH = 4


@ml.dataset(key="id")
def people() -> pl.DataFrame:
    """Six hundred people."""
    rng = np.random.default_rng(7)
    age, wage = rng.normal(40, 9, 600), rng.normal(0, 1, 600)
    bought = rng.random(600) < 1 / (1 + np.exp(-(age - 40) / 4 - wage))
    return pl.DataFrame({"id": range(600), "age": age, "wage": wage, "bought": bought})


@ml.training_set(columns=["age", "wage"], label="bought", split=ml.GroupSplit("id", validation=0.1, holdout=0.3))
def examples(people: pl.LazyFrame) -> pl.LazyFrame:
    """All of them."""
    return people


class Size(dg.Config):
    trees: int = 12


def forest(trees: int) -> HistGradientBoostingClassifier:
    """Return what is trained."""
    seed = int(os.environ.get("SEED", "0"))
    return HistGradientBoostingClassifier(max_iter=trees, max_depth=DEPTH, max_features=0.5, early_stopping=True, random_state=seed)


@ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], gates=[ml.Gate("roc_auc", at_least=0.5)])
def buys(train: ml.Split, params: Size) -> HistGradientBoostingClassifier:
    """Probability of buying."""
    return forest(params.trees).fit(train.X, train.y)


NOUNS = [people, examples, buys]
defs = ml.build_definitions(NOUNS)
