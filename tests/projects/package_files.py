"""A project in a package: its definitions import relatively, its model holds a class of the project, and its trials run in processes."""

from pathlib import Path

DEFINITIONS = """
from typing import Any

import dagster as dg
import mlops_assets as ml
import polars as pl

from . import settings
from .columns import COLUMNS
from .steps.halve import Halved


class Strength(dg.Config):
    C: float = 1.0


@ml.dataset(key="id")
def people() -> pl.DataFrame:
    rows = range(settings.ROWS)
    return pl.DataFrame({"id": rows, "x": [float(i % 7) for i in rows], "bought": [i % 7 > 3 for i in rows]})


@ml.training_set(columns=COLUMNS, label="bought", split=ml.GroupSplit("id", validation=0.3, holdout=0.3), label_copies=["x"])
def examples(people: pl.DataFrame) -> pl.DataFrame:
    return people


@ml.model(
    training_set=examples,
    metrics=["roc_auc"],
    search=ml.Search({"C": ml.types.SearchRange(0.01, 1.0)}, trials=2, metric="roc_auc", processes=2),
    trusted_types=["shop.steps.halve.Halved"],
)
def buys(train: ml.Split, params: Strength) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(Halved(), LogisticRegression(C=params.C)).fit(train.X, train.y)


api = ml.Service("api", model=buys, workers=1)
defs = ml.build_definitions([people, examples, buys, api])
"""
HALVED = """
from sklearn.base import BaseEstimator, TransformerMixin


class Halved(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X / 2
"""


def write_package(folder: Path, *, src: bool = True, toml: str = "") -> Path:
    """Write the project below a folder and return its definitions' file."""
    package = folder / ("src/shop" if src else "shop")
    (package / "steps").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "definitions.py": DEFINITIONS,
        "settings.py": "ROWS = 140\n",
        "columns.py": 'COLUMNS = ["x"]\n',
        "steps/__init__.py": "",
        "steps/halve.py": HALVED,
    }.items():
        (package / name).write_text(text)
    if toml:
        (folder / "pyproject.toml").write_text(toml)
    return package / "definitions.py"
