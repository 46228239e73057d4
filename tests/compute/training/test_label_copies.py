"""A feature that reproduces the label is found, whatever it is called and however it is scaled; an honest feature is not."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.training.label_copies import find_label_copies, refuse_label_copies
from mlops_assets.errors import DataError, DefinitionError

RNG = np.random.default_rng(0)
DELAY = pl.Series("delay", np.round(RNG.normal(20, 30, 400), 1))
FRAUD = pl.Series("fraud", RNG.random(400) < 0.1)
KIND = pl.Series("kind", RNG.choice(["a", "b", "c"], 400))


def how(feature: pl.Series, label: pl.Series) -> str:
    return next((copy.how for copy in find_label_copies(feature.alias("x").to_frame(), label)), "")


@pytest.mark.parametrize(
    ("feature", "label", "expected"),
    [
        (DELAY, DELAY, "the label"),
        (DELAY.cast(pl.String), DELAY, "the label"),
        (FRAUD.cast(pl.Int8), FRAUD, "the label"),
        (DELAY * -3 + 7, DELAY, "a one-to-one function of the label"),
        (DELAY.exp().cast(pl.Float32), DELAY, "a monotone function of the label"),
        (DELAY.round(0), DELAY, "a monotone function of the label"),
        (DELAY.cast(pl.Int64) // 30 * 30, DELAY, "a monotone function of the label"),
        (pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=m) for m in DELAY]), DELAY, "a one-to-one function of the label"),
        (FRAUD.replace_strict({True: "yes", False: "no"}), FRAUD, "a one-to-one function of the label"),
        (FRAUD.replace_strict({True: 1.0, False: None}, return_dtype=pl.Float64), FRAUD, "a one-to-one function of the label"),
        (KIND.replace_strict({"a": 3, "b": 1, "c": 2}), KIND, "a one-to-one function of the label"),
        (KIND.cast(pl.Categorical), KIND, "the label"),
    ],
)
def test_a_copy_of_the_label_is_found(feature, label, expected) -> None:
    assert how(feature, label) == expected


@pytest.mark.parametrize(
    ("feature", "label"),
    [
        (pl.Series(range(400)), DELAY),  # an identifier
        (pl.Series(RNG.normal(size=400)), pl.Series("y", RNG.normal(size=400))),
        (DELAY + RNG.normal(0, 1, 400), DELAY),  # close, but a measurement of its own
        (DELAY > 20, DELAY),  # two levels: a strong feature
        (FRAUD.cast(pl.Float64) + RNG.random(400) * 0.5, FRAUD),  # it separates the classes, as honest features may
        (pl.Series([1.0] * 400), DELAY),
        (pl.Series([None] * 400, dtype=pl.Float64), DELAY),
        (pl.Series([[1.0]] * 400), DELAY),
        (DELAY.head(19), DELAY.head(19)),  # too few rows to say so
    ],
)
def test_an_honest_feature_is_no_copy(feature, label) -> None:
    assert how(feature, label) == ""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=30, max_size=60, unique=True), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.booleans())
def test_every_linear_map_of_the_label_is_found(values, scale, offset, falling) -> None:
    label = pl.Series("y", values)
    assert how(label * (-scale if falling else scale) + offset, label)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 60))
def test_independent_columns_are_never_taken_for_copies(seed, levels, labels) -> None:
    rng = np.random.default_rng(seed)
    assert how(pl.Series(rng.integers(0, levels, 200)), pl.Series("y", rng.integers(0, labels, 200))) == ""


def test_the_refusal_names_column_label_rows_and_what_to_write() -> None:
    X = pl.DataFrame({"honest": RNG.normal(size=400), "late": DELAY * 2, "later": DELAY})
    with pytest.raises(DataError) as refused:
        refuse_label_copies(X, DELAY, allowed=(), what="the holdout of 'training_set/flights'")
    assert "'late' of X is a one-to-one function of the label 'delay' on all 400 rows of the holdout" in refused.value.message
    assert "so does 'later'" in refused.value.message
    assert 'label_copies=["late", "later"]' in refused.value.hint
    refuse_label_copies(X, DELAY, allowed=("late", "later"), what="the holdout")
    with pytest.raises(DataError, match="'later' of X is the label"):
        refuse_label_copies(X, DELAY, allowed=("late",), what="the holdout")
    with pytest.raises(DefinitionError, match="label_copies= names 'lat'"):
        refuse_label_copies(X, DELAY, allowed=("lat",), what="the holdout")
