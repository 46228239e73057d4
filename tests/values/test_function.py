"""Signatures of users' functions."""

from typing import TYPE_CHECKING

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin
    from sklearn.model_selection import GroupKFold


def test_a_result_may_be_of_a_class_that_only_type_checkers_import() -> None:
    @ml.dataset(key="id")
    def rows() -> pl.DataFrame:
        return pl.DataFrame({"id": [1], "x": [0.5], "late": [1]})

    @ml.training_set(columns=["x"], label="late", split=ml.GroupSplit("id"))
    def examples(rows: pl.DataFrame) -> pl.DataFrame:
        return rows

    @ml.model(training_set=examples, metrics=["roc_auc"])
    def lateness(train: ml.Split) -> "ClassifierMixin":
        raise NotImplementedError

    assert [(parameter.name, parameter.annotation) for parameter in lateness.function.parameters] == [("train", ml.Split)]


def test_the_class_of_a_parameter_is_imported_when_the_function_is_declared() -> None:
    def folds(groups: "GroupKFold") -> pl.DataFrame:
        raise NotImplementedError

    with pytest.raises(DefinitionError, match="import the annotated types at run time") as caught:
        ml.dataset(key="id")(folds)
    assert caught.value.message == "@ml.dataset 'folds': an annotation cannot be resolved: name 'GroupKFold' is not defined"
