"""One wrong value among a hundred thousand is found and named; what is equal to a model is equal."""

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.features.skew import FeatureSource, find_first_skew, find_skewed_values


def frame(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "k": [f"e{i % 97}" for i in range(n)],
            "at": pl.Series(range(n)),
            "a": rng.normal(size=n),
            "b": pl.Series([None if x < 0.1 else int(x * 100) for x in rng.random(n)], dtype=pl.Int64),
            "c": [f"text {i % 13}" for i in range(n)],
        }
    )


@pytest.mark.parametrize(("column", "wrong"), [("a", 1e-12), ("b", 5), ("c", "other")])
def test_one_wrong_value_in_a_hundred_thousand(column, wrong) -> None:
    offline = frame(100_000)
    row = 73_501
    served = offline.to_dict(as_series=False)
    right = served[column][row]
    served[column][row] = right + wrong if column == "a" else wrong
    found = find_skewed_values(pl.DataFrame(served, schema=offline.schema), offline, ["a", "b", "c"])
    assert found.select("row", "feature").rows() == [(row, column)]
    skew = find_first_skew(found, offline, dict.fromkeys("abc", FeatureSource("view", ("k",))), "at")
    assert str(skew) == (
        f"feature '{column}' of 'view' for k = '{offline['k'][row]}' at {row}: served {served[column][row]!r}, offline it is {right!r}"
    )


def test_equal_is_what_is_equal_to_a_model() -> None:
    served = pl.DataFrame({"a": [float("nan"), None, 0.0, 1.0], "n": [1, 2, None, 4]})
    offline = pl.DataFrame({"a": [None, float("nan"), -0.0, 1.0], "n": [1.0, 2.0, None, 4.0]})
    assert find_skewed_values(served, offline, ["a", "n"]).is_empty()
    missing = find_skewed_values(pl.DataFrame({"a": [None, 1.0]}), pl.DataFrame({"a": [2.0, None]}), ["a"])
    assert missing.rows() == [(0, "a", "None", "2.0"), (1, "a", "1.0", "None")]


def test_in_the_order_of_rows_then_features() -> None:
    found = find_skewed_values(pl.DataFrame({"b": [1, 1], "a": [1, 1]}), pl.DataFrame({"b": [1, 2], "a": [2, 2]}), ["b", "a"])
    assert found.select("row", "feature").rows() == [(0, "a"), (1, "b"), (1, "a")]
