"""A summary of SHAP values ranks columns by their size, and its effects add up."""

import json

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.explanation.shap_summary import MAX_SHOWN_COLUMNS, ShapSummary, name_output, summarise_columns

RANDOM = np.random.default_rng(0)
X = pl.DataFrame({"temp": RANDOM.normal(size=80), "wind": RANDOM.normal(size=80), "carrier": ["AA", "UA"] * 40, "fixed": [1.0] * 80})
VALUES = np.column_stack([X["temp"] * 0.1, X["wind"] * -0.5, RANDOM.normal(size=80), np.zeros(80)])


def test_columns_are_sorted_by_size_with_effect_direction_and_reference() -> None:
    found = {column.name: column for column in summarise_columns(X, VALUES, 2 * VALUES[:10])}
    assert list(found) == ["carrier", "wind", "temp", "fixed"]
    assert sum(column.effect for column in found.values()) == pytest.approx(VALUES.mean(axis=0).sum())
    assert found["wind"].size == pytest.approx(np.abs(VALUES[:, 1]).mean())
    assert found["wind"].reference == pytest.approx(2 * np.abs(VALUES[:10, 1]).mean())
    assert (found["temp"].direction_text, found["wind"].direction_text) == ("higher values raise it", "higher values lower it")
    assert found["carrier"].direction is None
    assert found["fixed"].direction is None


def test_nulls_take_no_part_in_a_direction_and_noise_has_none() -> None:
    holes = X.with_columns(temp=pl.when(pl.int_range(80) % 2 == 0).then("temp"), wind=pl.Series(RANDOM.normal(size=80)))
    found = {column.name: column for column in summarise_columns(holes, VALUES, VALUES)}
    assert found["temp"].direction == pytest.approx(1)
    assert found["wind"].direction_text == ""


def test_rows_of_several_classes_have_no_direction() -> None:
    assert {column.direction for column in summarise_columns(X, VALUES, VALUES, directed=False)} == {None}
    assert name_output(["late", "early"]) == "the probability of the likeliest class"
    assert name_output(["late", "late"]) == "the probability of late"
    assert name_output(None) == "the prediction"


def test_columns_beyond_those_shown_are_summed_up() -> None:
    wide = pl.DataFrame({f"x{i}": RANDOM.normal(size=20) for i in range(MAX_SHOWN_COLUMNS + 3)})
    values = wide.to_numpy()
    summary = ShapSummary("the prediction", 20, 20, 5, columns=summarise_columns(wide, values, values))
    assert len(summary.shown) == MAX_SHOWN_COLUMNS
    assert summary.hidden_effect + sum(c.effect for c in summary.shown) == pytest.approx(values.mean(axis=0).sum())
    assert json.loads(json.dumps(summary.as_json()))["columns"][0]["name"] == summary.shown[0].name
