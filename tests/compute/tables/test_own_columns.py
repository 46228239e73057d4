"""Columns of the package and columns of a user with the same names live in one table, and come back as they were."""

import polars as pl
import pytest

from mlops_assets.compute.tables.own_columns import (
    PREDICTION,
    PREDICTION_COLUMNS,
    SPLIT,
    TRAINING_SET_COLUMNS,
    lake_column,
    rename_from_table,
    rename_to_table,
)
from mlops_assets.compute.training.split import sort_canonically, split_rows


@pytest.mark.parametrize("own", [PREDICTION_COLUMNS, TRAINING_SET_COLUMNS])
def test_every_name_comes_back_from_the_lake(own):
    names = [*own, *(name.removeprefix("__") for name in own), "x"]
    frame = pl.DataFrame({name: [index] for index, name in enumerate(names)})
    stored = rename_to_table(frame, own)
    assert len(set(stored.columns)) == len(names)
    assert set(stored.columns) >= {name.removeprefix("__") for name in own}
    assert rename_from_table(stored, own).equals(frame)


def test_names_that_differ_in_case_or_have_a_number_come_back_too():
    names = ["Prediction", "MISSING", "Run_ID", "prediction_2", "Probabilities_3", "prediction_x", "Split"]
    frame = pl.DataFrame({name: [index] for index, name in enumerate([*PREDICTION_COLUMNS, *names, "__prediction_2"])})
    stored = rename_to_table(frame, PREDICTION_COLUMNS)
    assert len({name.lower() for name in stored.columns}) == frame.width
    assert {"__input_Prediction", "__input_prediction_2", "prediction_2", "prediction_x", "Split"} <= set(stored.columns)
    assert rename_from_table(stored, PREDICTION_COLUMNS).equals(frame)
    assert rename_to_table(pl.DataFrame({"Split": [1], SPLIT: [2]}), TRAINING_SET_COLUMNS).columns == ["__input_Split", "split"]


def test_a_table_without_a_clash_keeps_plain_names():
    stored = rename_to_table(pl.DataFrame({"x": [1], PREDICTION: [2]}), PREDICTION_COLUMNS)
    assert stored.columns == ["x", "prediction"]
    assert lake_column("x", PREDICTION_COLUMNS) == "x"


def test_parts_are_found_where_a_feature_is_named_split():
    rows = pl.DataFrame({"split": ["a", "b", "c"], "y": [0, 1, 0], SPLIT: ["train", "validation", "holdout"]})
    parts = split_rows(sort_canonically(rename_to_table(rows, TRAINING_SET_COLUMNS), None), ["split"], "y")
    assert {name: part.X["split"].to_list() for name, part in parts.items()} == {"train": ["a"], "validation": ["b"], "holdout": ["c"]}
    assert parts["train"].rows.columns == ["split", "y"]
