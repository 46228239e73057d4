"""Content hashes: equal for equal rows in any order, and for nothing else."""

from datetime import UTC, datetime, timedelta
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.tables import content_hash as module
from mlops_assets.compute.tables.content_hash import content_hash, hash_ordered_slices, hash_slices, ordered_hash
from mlops_assets.compute.tables.stored_types import normalize
from mlops_assets.errors import DataError

FRAME = pl.DataFrame(
    {
        "id": ["b", "a", "ü"],
        "n": [1, None, 3],
        "x": [0.5, float("nan"), None],
        "t": [datetime(2024, 1, d, tzinfo=UTC) for d in (1, 2, 3)],
        "flag": [True, False, None],
        "many": [[1, 2], [], None],
    }
)


def test_the_hash_of_known_rows_is_known() -> None:
    assert content_hash(normalize(FRAME), ["id"]) == "9fcadeecc94fa865bc2e62ff8a04f3445cc81196868a205ce7d44116042a944e"


def test_the_hashes_of_known_rows_in_their_order_are_known() -> None:
    rows = normalize(FRAME)
    whole, last, none = hash_ordered_slices(rows, [(0, 3), (1, 3), (0, 0)])
    assert whole == ordered_hash(rows) == "172a38b0445de675075d47e1ad47167fc989e0df59bb54318b8474ffa2b75239"
    assert last == ordered_hash(rows[1:3]) == "78f4b082ff48503222c472cc6a1e92954893921c1d4faffe1bd25a3e2fbd73d8"
    assert none == ordered_hash(rows.clear()) == "3ecb806163d71592c7ed41b23bfdefa4247dad8fbca1cb544180f7b52fdbe4a8"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.permutations([0, 1, 2]), st.permutations(FRAME.columns))
def test_the_order_of_rows_and_columns_does_not_count(rows, columns) -> None:
    assert content_hash(normalize(FRAME[list(rows)].select(columns)), ["id"]) == content_hash(normalize(FRAME), ["id"])
    assert content_hash(normalize(FRAME[list(rows)].select(columns))) == content_hash(normalize(FRAME))


@pytest.mark.parametrize(
    "change",
    [
        pl.col("n").fill_null(0),
        pl.col("x").fill_nan(None),
        pl.col("x").fill_null(0.0),
        pl.col("t") + timedelta(microseconds=1),
        pl.col("flag").fill_null(value=False),
        pl.col("id").replace("a", "aa"),
        pl.col("n").cast(pl.Float64),
        pl.col("n").alias("m"),
    ],
)
def test_any_change_of_a_value_a_type_or_a_name_counts(change) -> None:
    assert content_hash(normalize(FRAME.with_columns(change))) != content_hash(normalize(FRAME))


def test_text_cannot_slide_between_rows() -> None:
    one, other = pl.DataFrame({"a": ["ab", "c"]}), pl.DataFrame({"a": ["a", "bc"]})
    assert content_hash(one) != content_hash(other)


def test_there_is_one_nan_and_one_zero_and_width_does_not_count() -> None:
    odd_nan = np.array([0x7FF8000000000001], dtype="<u8").view("<f8")
    assert content_hash(pl.DataFrame({"a": odd_nan})) == content_hash(pl.DataFrame({"a": [float("nan")]}))
    assert content_hash(pl.DataFrame({"a": [-0.0]})) == content_hash(pl.DataFrame({"a": [0.0]}))
    assert content_hash(pl.DataFrame({"a": [1]}, schema={"a": pl.Int8})) == content_hash(pl.DataFrame({"a": [1]}))
    big = 2**53 + 1
    assert content_hash(pl.DataFrame({"a": [big]})) != content_hash(pl.DataFrame({"a": [big - 1]}))


def test_parts_hash_as_if_they_were_alone() -> None:
    frame = pl.DataFrame({"k": ["c", "a", "b"], "v": [1, 2, 3]})
    assert hash_slices(frame, [(0, 1), (1, 3)], ["k"]) == [content_hash(frame[:1], ["k"]), content_hash(frame[1:], ["k"])]
    assert hash_slices(frame, [(0, 0), (0, 3)]) == [content_hash(frame[:0]), content_hash(frame)]


def test_what_the_lake_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="column 'd' has type Duration"):
        normalize(pl.DataFrame({"d": [timedelta(1)]}))
    with pytest.raises(DataError, match="column 's' holds text with a NUL"):
        normalize(pl.DataFrame({"s": ["a\x00b"]}))


def test_rows_that_agree_where_the_first_rows_differ_have_one_order() -> None:
    numbers = [*range(1_500), *([7] * 500)]
    rows = pl.DataFrame({"a": numbers, "b": ["x"] * 2_000, "c": [n % 3 for n in range(2_000)], "d": range(2_000)})
    shuffled = pl.concat([rows[:1_200], rows[1_200:].sample(fraction=1, shuffle=True, seed=1)])
    assert content_hash(rows) == content_hash(shuffled) == content_hash(rows.reverse())
    assert content_hash(rows, ["a"]) == content_hash(shuffled, ["a"]) == content_hash(rows.reverse(), ["a"])


def test_slices_are_sorted_each_by_itself() -> None:
    rows = pl.DataFrame({"n": [3, 1, 2, 2, 1, 3], "text": ["ä", None, "", "long enough not to be inlined", "b", "a"]})
    whole = hash_slices(rows, [(0, 2), (2, 2), (2, 6)], ["n"])
    assert whole == [content_hash(rows[0:2], ["n"]), content_hash(rows[:0], ["n"]), content_hash(rows[2:6], ["n"])]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "", "a", "ä", "a long text that is not inlined"]),
            st.sampled_from([None, -(2**63), -3, 0, 7, 2**63 - 1]) | st.integers(-2, 2),
            st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
            st.none() | st.booleans(),
            st.floats(),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([(), ("text",), ("n", "t")]),
)
def test_rows_sorted_by_packed_columns_have_the_same_hash(values, key) -> None:
    schema = {"text": pl.String, "n": pl.Int64, "t": pl.Datetime("us"), "flag": pl.Boolean, "x": pl.Float64}
    rows = pl.DataFrame(values, schema=schema, orient="row")
    plain = content_hash(rows, key)
    with mock.patch.object(module, "_MIN_PACKED_ROWS", 1):
        assert content_hash(rows, key) == plain


def test_many_rows_are_sorted_by_packed_columns() -> None:
    rows = pl.DataFrame({"a": ["x", "y"] * 50_000, "b": range(100_000), "c": 0.5}).sample(fraction=1, shuffle=True, seed=1)
    packed = module._pack_columns([rows["a"], rows["b"], rows["c"]])
    assert packed is not None
    assert packed.n_unique() == rows.height
    with mock.patch.object(module, "_arg_sort", side_effect=AssertionError("sorted by several columns")):
        assert len(content_hash(rows)) == 64
