"""Predictions of another type have columns of their own, and a number that is not finite is no prediction."""

import polars as pl

from mlops_assets.compute.tables.own_columns import PREDICTION_COLUMNS, rename_from_table, rename_to_table
from mlops_assets.serving.formats.prediction_columns import (
    PredictionKind,
    describe_changed_kind,
    find_column,
    merge_typed_columns,
    rename_by_type,
)

NUMBER, FLAG, WORD = (
    PredictionKind("Float64"),
    PredictionKind("Boolean", ("False", "True"), "True"),
    PredictionKind("String", ("no", "yes"), "yes"),
)


def test_a_number_that_is_not_finite_is_null_with_its_reason() -> None:
    found = NUMBER.to_frame(pl.Series([1.0, float("inf"), float("nan")]))
    assert found["__prediction"].to_list() == [1.0, None, None]
    assert found["__prediction_problem"].to_list() == [
        None,
        "the model predicts inf, which is not finite",
        "the model predicts NaN, which is not finite",
    ]
    assert found.columns == ["__prediction", "__probability", "__probability_of", "__prediction_problem"]


def test_a_probability_that_is_not_finite_leaves_no_prediction() -> None:
    found = WORD.to_frame(pl.Series(["yes", "no"]), pl.Series([{"no": 0.2, "yes": 0.8}, {"no": float("nan"), "yes": 0.5}]))
    assert found["__prediction"].to_list() == ["yes", None]
    assert found["__probability"].to_list() == [0.8, None]
    assert found["__prediction_problem"][1] == "the model gives a probability that is not finite"


def stored(kind: PredictionKind, *values) -> pl.DataFrame:
    return rename_to_table(kind.to_frame(*values), PREDICTION_COLUMNS)


def read(table: pl.DataFrame) -> pl.DataFrame:
    return merge_typed_columns(rename_from_table(table, PREDICTION_COLUMNS))


def test_each_type_has_a_column_and_keeps_it() -> None:
    flags = stored(FLAG, pl.Series([True]), pl.Series([{"False": 0.1, "True": 0.9}]))
    words = stored(WORD, pl.Series(["no"]), pl.Series([{"no": 0.7, "yes": 0.3}]))
    placed = rename_by_type([flags, words], {})
    assert [frame.columns[0] for frame in placed] == ["prediction", "prediction_2"]
    table = pl.concat(placed, how="diagonal")
    assert table.select("prediction", "prediction_2").rows() == [(True, None), (None, "no")]
    again = rename_by_type([words], dict(table.schema))
    assert "prediction_2" in again[0].columns
    assert read(table[1:])["__prediction"].to_list() == ["no"]
    assert read(table[1:])["__probabilities"].to_list() == [{"no": 0.7, "yes": 0.3}]
    assert read(table[:1])["__prediction"].to_list() == [True]
    assert find_column("prediction", pl.Int32(), {"prediction": pl.Int64()}) == "prediction"


def test_a_feature_named_like_a_numbered_column_keeps_its_place() -> None:
    words, users = WORD.to_frame(pl.Series(["no"]), pl.Series([{"no": 0.7, "yes": 0.3}])), pl.Series("prediction_2", ["mine"])
    first = rename_to_table(
        FLAG.to_frame(pl.Series([True]), pl.Series([{"False": 0.1, "True": 0.9}])).with_columns(users), PREDICTION_COLUMNS
    )
    placed = rename_by_type([first, rename_to_table(words.with_columns(users), PREDICTION_COLUMNS)], {})
    table = pl.concat(placed, how="diagonal")
    assert {"prediction", "prediction_2", "__input_prediction_2"} <= set(table.columns)
    assert read(table[1:])["__prediction"].to_list() == ["no"]
    assert read(table)["prediction_2"].to_list() == ["mine", "mine"]


def test_a_change_is_described_in_words() -> None:
    assert describe_changed_kind(FLAG, WORD) == "it predicts String, but the previous version Boolean"
    assert describe_changed_kind(WORD, PredictionKind("String", ("no", "yes", "perhaps"))).startswith(
        "it predicts the classes no, yes, perhaps"
    )
    assert describe_changed_kind(FLAG, FLAG) == ""
