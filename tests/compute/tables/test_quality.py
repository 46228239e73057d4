"""Limits of partitions and rows: what is declared, what is learned, and what each breach says; rows that are set aside."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.compute.tables.quality import find_limit_violations, learn_limits, limits_from_table, limits_to_table
from mlops_assets.compute.tables.quarantine import build_quarantine_outcome, count_partitions, split_quarantine
from mlops_assets.compute.tables.verify import verify
from mlops_assets.values.dataset import Table
from mlops_assets.values.window import TimeWindow

BASE = datetime(2024, 1, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")


def windows(days: int) -> list[tuple[str, TimeWindow]]:
    return [(f"2024-01-{day + 1:02d}", TimeWindow(BASE + timedelta(days=day), BASE + timedelta(days=day + 1))) for day in range(days)]


def frame(days: int, rows: int = 100, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = days * rows
    return pl.DataFrame(
        {
            "id": [str(i) for i in range(n)],
            "at": pl.Series([BASE + timedelta(days=i // rows, seconds=i % rows) for i in range(n)], dtype=UTC_US),
            "x": rng.normal(size=n),
            "kind": rng.choice(["a", "b"], n),
        }
    )


def outcome(rows: pl.DataFrame, quality: ml.Quality, days: int = 1):
    return verify(rows, Table(event_timestamp="at", quality=quality), windows(days))[-1]


@pytest.mark.parametrize(
    ("quality", "spoilt", "message"),
    [
        (
            ml.Quality(nulls={"x": 0.05}),
            pl.when(pl.col("id").cast(pl.Int64) % 10 > 0).then("x").alias("x"),
            "partition '2024-01-01' has nulls in 10.00% of column 'x', not at most 5.00% (declared)",
        ),
        (
            ml.Quality(ranges={"x": (-9, 9)}),
            pl.when(pl.col("id") == "7").then(99.5).otherwise("x").alias("x"),
            "column 'x' is 99.5 in the first of 1 row(s), outside of the range -9 to 9 (declared); the first bad row is number 8, partition '2024-01-01'",
        ),
        (
            ml.Quality(ranges={"x": (None, 9)}),
            pl.when(pl.col("id") == "7").then(float("nan")).otherwise("x").alias("x"),
            "column 'x' is nan in the first of 1 row(s), outside of the range at most 9 (declared); the first bad row is number 8, partition '2024-01-01'",
        ),
        (
            ml.Quality(categories={"kind": ["a", "b"]}),
            pl.when(pl.col("id") == "3").then(pl.lit("c")).otherwise("kind").alias("kind"),
            "column 'kind' is 'c' in the first of 1 row(s), none of the categories one of a, b (declared); the first bad row is number 4, partition '2024-01-01'",
        ),
        (ml.Quality(rows=(101, None)), pl.col("x"), "partition '2024-01-01' has 100 rows, not at least 101 (declared)"),
        (ml.Quality(rows=(1, 99)), pl.col("x"), "partition '2024-01-01' has 100 rows, not 1 to 99 (declared)"),
        (ml.Quality(ranges={"y": (0, 1)}), pl.col("x"), "column 'y' is missing"),
        (ml.Quality(ranges={"kind": (0, 1)}), pl.col("x"), "column 'kind' is String, which has no range"),
    ],
)
def test_a_broken_limit_names_partition_column_figure_limit_and_origin(quality, spoilt, message) -> None:
    found = outcome(frame(1).with_columns(spoilt), quality)
    assert (found.passed, found.blocking, found.message) == (False, True, message)
    assert found.hint
    assert outcome(frame(1), ml.Quality(nulls={"x": 0.05}, ranges={"x": (-9, 9)}, categories={"kind": ["a", "b"]}, rows=(1, 100))).passed


def test_nulls_are_in_every_range_and_a_warning_does_not_block() -> None:
    rows = frame(1).with_columns(x=pl.lit(None, dtype=pl.Float64), kind=pl.lit(None, dtype=pl.String))
    assert outcome(rows, ml.Quality(ranges={"x": (0, 1)}, categories={"kind": ["a"]})).passed
    found = outcome(frame(1), ml.Quality(rows=(None, 1), severity="warn"))
    assert (found.passed, found.blocking) == (False, False)


def test_each_partition_is_judged_by_itself_and_an_empty_one_counts() -> None:
    rows = frame(3).filter(pl.col("at").dt.day() != 2)
    found = outcome(rows, ml.Quality(rows=(50, None)), days=3)
    assert found.message == "partition '2024-01-02' has 0 rows, not at least 50 (declared)"


def test_limits_are_learned_from_the_reference_period_with_the_margin_and_say_so() -> None:
    rows = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d", "e", "f"],
            "at": pl.Series([BASE + timedelta(days=d) for d in (0, 0, 1, 1, 1, 1)], dtype=UTC_US),
            "x": [0.0, 10.0, None, 4.0, 5.0, 6.0],
            "kind": ["a"] * 6,
        }
    )
    limits = learn_limits(ml.Quality(learn_from=2, margin=0.5, ranges={"y": (0, 1)}), rows, "at", windows(2), excluded_columns=["id"])
    learned = "learned from 2 partition(s) '2024-01-01' to '2024-01-02', margin 50%"
    assert {(x.rule, x.column): x.text for x in limits} == {
        ("range", "y"): "0 to 1 (declared)",
        ("rows", ""): f"1 to 6 ({learned})",
        ("null share", "x"): f"at most 37.50% ({learned})",
        ("range", "x"): f"-5 to 15 ({learned})",
        ("null share", "kind"): f"at most 1.00% ({learned})",
        ("categories", "kind"): f"one of a ({learned})",
    }
    assert limits_from_table(limits_to_table(limits, ml.Quality(learn_from=2))) == limits


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 2))
def test_what_was_learned_from_passes_its_own_limits(seed, days, margin) -> None:
    rng = np.random.default_rng(seed)
    rows = frame(days, rows=20, seed=seed).filter(pl.Series(rng.random(20 * days) < 0.8))
    rows = rows.with_columns(x=pl.when(pl.Series(rng.random(rows.height) < 0.9)).then("x"))
    if rows.height:
        limits = learn_limits(ml.Quality(learn_from=days, margin=margin), rows, "at", windows(days), excluded_columns=["id"])
        assert list(find_limit_violations(rows, "at", windows(days), limits)) == []


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({}, "nothing is declared"),
        ({"nulls": {"x": 1.5}}, "the null share of 'x' is 1.5"),
        ({"ranges": {"x": (2, 1)}}, "the limits of 'x' are 2 and 1"),
        ({"ranges": {"x": (None, None)}}, "the limits of 'x' are None and None"),
        ({"rows": (5, 1)}, "the limits of 'rows' are 5 and 1"),
        ({"categories": {"x": []}}, "'x' has no allowed category"),
        ({"rows": (1, 2), "margin": -1}, "margin=-1"),
        ({"rows": (1, 2), "severity": "fatal"}, "severity='fatal'"),
        ({"learn_from": 0}, "nothing is declared"),
        ({"learn_from": -1}, "learn_from=-1"),
        ({"learn_from": ("2024-02-01", "2024-01-01")}, "ends before it begins"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(given_, words) -> None:
    with pytest.raises(ml.DefinitionError, match="Hint:") as error:
        ml.Quality(**given_)
    assert words in error.value.message


TABLE = Table(key=("id",), event_timestamp="at", quality=ml.Quality(ranges={"x": (-9, 9)}), quarantine=0.05)


def divided(rows: pl.DataFrame, days: int = 1, table: Table = TABLE):
    return split_quarantine(rows, table, windows(days), limits=None, run_id="run", now=BASE)


def test_each_bad_row_is_set_aside_once_with_every_reason_and_the_good_ones_are_kept() -> None:
    rows = frame(2)
    spoilt = rows.with_columns(
        id=pl.when(pl.col("id").is_in(["5", "6"])).then(pl.lit("twice")).when(pl.col("id") == "150").then(None).otherwise("id"),
        x=pl.when(pl.col("id").is_in(["5", "40"])).then(99.0).otherwise("x"),
        at=pl.when(pl.col("id") == "199").then(pl.col("at") + timedelta(days=9)).when(pl.col("id") == "3").then(None).otherwise("at"),
    )
    kept, refused = divided(spoilt, days=2)
    bad = [3, 5, 6, 40, 150, 199]
    assert kept.equals(spoilt.with_row_index("n").filter(~pl.col("n").is_in(bad)).drop("n"))
    assert refused["partition"].to_list() == ["2024-01-01"] * 4 + ["2024-01-02"] * 2
    assert refused["reason"].to_list() == [
        "event_time: at = None breaks not null",
        "key: id = 'twice' breaks unique key; quality: x = 99.0 breaks range: -9 to 9 (declared)",
        "key: id = 'twice' breaks unique key",
        "quality: x = 99.0 breaks range: -9 to 9 (declared)",
        "key: id = None breaks not null",
        "event_time: at = 2024-01-11 00:01:39+00:00 breaks inside of the partition",
    ]
    assert json.loads(refused["row"][3])["id"] == "40"
    assert count_partitions(spoilt, TABLE, windows(2)) == [100, 100]
    assert all(o.passed for o in verify(kept, TABLE, windows(2)))


def test_exact_ids_survive_in_the_quarantine() -> None:
    rows = pl.DataFrame({"id": [2**53 + 1, 2**53 + 1], "at": pl.Series([BASE, BASE], dtype=UTC_US), "x": [0.0, 0.0]})
    assert [json.loads(row)["id"] for row in divided(rows)[1]["row"]] == [2**53 + 1] * 2


def test_too_many_bad_rows_of_one_partition_refuse_the_write_and_say_which_and_why() -> None:
    spoilt = frame(2).with_columns(x=pl.when(pl.col("id").cast(pl.Int64) >= 194).then(99.0).otherwise("x"))
    _, refused = divided(spoilt, days=2)
    found = build_quarantine_outcome(refused, count_partitions(spoilt, TABLE, windows(2)), windows(2), share=0.05, name="t")
    assert (found.passed, found.blocking) == (False, True)
    assert found.message.startswith(
        "partition '2024-01-02': 6 of 100 rows (6.00%) break a rule on rows, more than the 5.00% that quarantine= allows; "
        "most often x: range: -9 to 9 (declared) (6); the first: quality: x = 99.0 breaks range: -9 to 9 (declared), in {"
    )
    allowed = build_quarantine_outcome(refused, [100, 100], windows(2), share=0.06, name="t")
    assert (allowed.passed, allowed.blocking) == (False, False)
    assert allowed.message == "6 row(s) were quarantined in 'quarantine/t': x: range: -9 to 9 (declared) (6)"
    assert "mlops quarantine replay t" in allowed.hint
    assert build_quarantine_outcome(refused.clear(), [100, 100], windows(2), share=0.05, name="t").passed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_no_row_is_lost_or_doubled_and_what_is_kept_breaks_no_rule(seed) -> None:
    rng = np.random.default_rng(seed)
    rows = frame(3, rows=30, seed=seed)
    hit = lambda share: pl.Series(rng.random(rows.height) < share)
    spoilt = rows.with_columns(
        id=pl.when(hit(0.05)).then(None).when(hit(0.1)).then(pl.lit("same")).otherwise("id"),
        at=pl.when(hit(0.05)).then(None).when(hit(0.05)).then(pl.col("at") + timedelta(days=5)).otherwise("at"),
        x=pl.when(hit(0.05)).then(99.0).when(hit(0.05)).then(float("nan")).otherwise("x"),
        n=pl.int_range(rows.height),
    )
    kept, refused = divided(spoilt, days=3)
    back = sorted([*kept["n"].to_list(), *(json.loads(row)["n"] for row in refused["row"])])
    assert back == list(range(rows.height))
    assert all(o.passed for o in verify(kept, TABLE, windows(3)))
