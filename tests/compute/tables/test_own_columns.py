"""Columns of the package and columns of a user with the same names live in one table, and come back as they were."""

import polars as pl
import pytest

from mlops_assets.compute.tables.own_columns import OF_PREDICTIONS, OF_TRAINING_SETS, PREDICTION, SPLIT, from_table, table_name, to_table
from mlops_assets.compute.training.split import in_canonical_order, parts_of


@pytest.mark.parametrize("own", [OF_PREDICTIONS, OF_TRAINING_SETS])
def test_every_name_comes_back_from_the_lake(own):
    names = [*own, *(name.removeprefix("__") for name in own), "x"]
    frame = pl.DataFrame({name: [index] for index, name in enumerate(names)})
    stored = to_table(frame, own)
    assert len(set(stored.columns)) == len(names)
    assert set(stored.columns) >= {name.removeprefix("__") for name in own}
    assert from_table(stored, own).equals(frame)


def test_names_that_differ_in_case_or_have_a_number_come_back_too():
    names = ["Prediction", "MISSING", "Run_ID", "prediction_2", "Probabilities_3", "prediction_x", "Split"]
    frame = pl.DataFrame({name: [index] for index, name in enumerate([*OF_PREDICTIONS, *names, "__prediction_2"])})
    stored = to_table(frame, OF_PREDICTIONS)
    assert len({name.lower() for name in stored.columns}) == frame.width
    assert {"__input_Prediction", "__input_prediction_2", "prediction_2", "prediction_x", "Split"} <= set(stored.columns)
    assert from_table(stored, OF_PREDICTIONS).equals(frame)
    assert to_table(pl.DataFrame({"Split": [1], SPLIT: [2]}), OF_TRAINING_SETS).columns == ["__input_Split", "split"]


def test_a_table_without_a_clash_keeps_plain_names():
    stored = to_table(pl.DataFrame({"x": [1], PREDICTION: [2]}), OF_PREDICTIONS)
    assert stored.columns == ["x", "prediction"]
    assert table_name("x", OF_PREDICTIONS) == "x"


def test_parts_are_found_where_a_feature_is_named_split():
    rows = pl.DataFrame({"split": ["a", "b", "c"], "y": [0, 1, 0], SPLIT: ["train", "validation", "holdout"]})
    parts = parts_of(in_canonical_order(to_table(rows, OF_TRAINING_SETS), None), ["split"], "y")
    assert {name: part.X["split"].to_list() for name, part in parts.items()} == {"train": ["a"], "validation": ["b"], "holdout": ["c"]}
    assert parts["train"].rows.columns == ["split", "y"]
