"""Read by mypy, not run: each `# >>` is what it must say of its line."""

from datetime import timedelta
from typing import reveal_type

import dagster as dg
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml


@ml.dataset(key="id")
def rows(window: ml.TimeWindow) -> pl.LazyFrame:
    raise NotImplementedError


@ml.dataset
def bare() -> pl.LazyFrame:
    raise NotImplementedError


@ml.on_demand_features
def clock(at: np.ndarray) -> dict[str, np.ndarray]:
    raise NotImplementedError


@ml.training_set(label="y", columns=["x"], features=[clock], split=ml.GroupSplit("shop"))
def examples(rows: pl.LazyFrame) -> pl.LazyFrame:
    raise NotImplementedError


class Params(dg.Config):
    depth: int = 3


@ml.model(training_set=examples, metrics=["roc_auc"])
def clf(train: ml.Split, params: Params) -> LogisticRegression:
    raise NotImplementedError


@ml.gate(clf)
def sound(candidate: ml.Candidate) -> bool:
    raise NotImplementedError


# fmt: off
def uses(window: ml.TimeWindow, split: ml.Split) -> None:
    reveal_type(rows)  # >> "mlops_assets.values.dataset.Dataset[[window: mlops_assets.values.window.TimeWindow], polars.lazyframe.frame.LazyFrame]"
    reveal_type(bare())  # >> "polars.lazyframe.frame.LazyFrame"
    reveal_type(rows(window))  # >> "polars.lazyframe.frame.LazyFrame"
    reveal_type(rows.key)  # >> "builtins.str"
    reveal_type(examples(pl.LazyFrame()))  # >> "polars.lazyframe.frame.LazyFrame"
    reveal_type(clf.training_set)  # >> "mlops_assets.values.training.TrainingSet[..., Any]"
    reveal_type(sound.model.name)  # >> "builtins.str"
    reveal_type(ml.build_definitions([rows, examples, clf, sound]))  # >> Definitions"
    reveal_type(ml.Gate("roc_auc", at_least=0.5).threshold)  # >> "builtins.float"
    ml.model(training_set=examples, metrics=["r2"], gates=[ml.Gate("r2", at_least=0.5), ml.Gate.latency(p95_ms=5), ml.Gate.artifact_size(9)])
    ml.model(training_set=examples, metrics=["r2"], gates=["r2"])  # >> List item 0 has incompatible type "str"; expected "GateLike"
    rows("2024")  # >> Argument 1 to "__call__" of "Dataset" has incompatible type "str"
    rows()  # >> Missing positional argument "window"
    clf(split, depth=3)  # >> Unexpected keyword argument "depth"
    ml.gate(examples)  # >> Argument 1 to "gate" has incompatible type "TrainingSet[
    ml.BatchPrediction("p", model=examples, dataset=rows)  # >> Argument "model" to "BatchPrediction" has incompatible type
    ml.TimeSplit(validation=7, holdout=timedelta(1))  # >> Argument "validation" to "TimeSplit" has incompatible type "int"; expected "timedelta | None"
    ml.Gate("roc_auc", atleast=0.5)  # >> Unexpected keyword argument "atleast"
    ml.build_definitions([len])  # >> List item 0 has incompatible type
    ml.dataset(keys="id")  # >> No overload variant of "dataset" matches argument type "str"
