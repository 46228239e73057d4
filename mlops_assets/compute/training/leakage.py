"""Find leaking columns: copies of columns known later, times after the event, and columns that by themselves predict the label."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_AGREEMENT = 0.99  # share of equal rows, or absolute rank correlation, from which a column repeats another
_SAMPLE_ROWS = 20_000  # minimum number of rows of a sample
_MIN_AUC, _MIN_RANK_CORRELATION = 0.975, 0.98  # from which a single column predicts suspiciously well
_MIN_ROWS = 25  # rows of each class
_EARLIEST_ZONE, _LATEST_ZONE = timedelta(hours=14), timedelta(hours=12)  # how far the clocks of the earth are before and behind UTC


@dataclass(frozen=True)
class RepeatedColumn:
    """A training column that repeats a column known only after its row.

    Parameters
    ----------
    column
        The column of ``X``.
    later
        The column that is known later: ``dataset.column``, or ``the label NAME``.
    share
        The share of rows with equal values; if it is below 99 %, the absolute rank correlation of the two columns.
    """

    column: str
    later: str
    share: float


def sample_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return evenly spaced rows, at least 20,000.

    A frame of fewer than 40,000 rows is returned whole, so sampling a sample changes nothing.
    """
    return rows.gather_every(max(1, rows.height // _SAMPLE_ROWS))


def find_repeated_columns(rows: pl.DataFrame, columns: Sequence[str], later: pl.DataFrame) -> list[RepeatedColumn]:
    """Find columns that equal a column known later, or that sort the rows in the same or the reverse order: one result for each pair.

    Parameters
    ----------
    rows
        A sample of the training set.
    columns
        The columns of ``X`` to check.
    later
        The columns known later, row by row as in ``rows``.
    """
    repeats = []
    for column in columns:
        for name in later.columns:
            share = _measure_agreement(rows[column], later[name])
            if share >= _MIN_AGREEMENT:
                repeats.append(RepeatedColumn(column, name, share))
    return repeats


def _measure_agreement(first: pl.Series, second: pl.Series) -> float:
    """Return the share of equal values if at least 99 %, else the absolute rank correlation.

    The result is 0 for fewer than 20 rows without nulls, for a constant column, and for unequal columns of a type without an order.
    """
    pairs = pl.DataFrame({"first": first, "second": second}).drop_nulls()
    if pairs.height < 20 or pairs["second"].n_unique() < 2 or pairs["first"].n_unique() < 2:
        return 0.0
    if (
        pairs["first"].dtype == pairs["second"].dtype
        and (equal := (pairs["first"] == pairs["second"]).mean())
        and float(equal) >= _MIN_AGREEMENT  # type: ignore[arg-type]  # the mean of booleans
    ):
        return float(equal)  # type: ignore[arg-type]
    if not _is_ordered(pairs["first"].dtype) or not _is_ordered(pairs["second"].dtype):
        return 0.0
    correlation = pairs.select(
        pl.corr(pl.col("first").to_physical().cast(pl.Float64), pl.col("second").to_physical().cast(pl.Float64), method="spearman")
    ).item()
    return abs(float(correlation)) if correlation is not None and correlation == correlation else 0.0  # noqa: PLR0124  (NaN)


def _is_ordered(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean


@dataclass(frozen=True)
class StrongColumn:
    """A column that by itself predicts the label nearly perfectly.

    Parameters
    ----------
    column
        The column of ``X``.
    share
        For two classes, the area under the ROC curve of the column as a score, in the better direction. For numbers, the share of rows
        equal to the label if it is at least 99 %, else the absolute rank correlation with the label.
    of_classes
        Whether the label has two classes.
    """

    column: str
    share: float
    of_classes: bool


@dataclass(frozen=True)
class LaterTime:
    """A column of ``X`` with times after the event of their row.

    Parameters
    ----------
    column
        The column of ``X``.
    rows
        The number of rows with a later time.
    first, event
        The time in the first such row of the frame, and the event time of that row, as text.
    """

    column: str
    rows: int
    first: str
    event: str


def find_strong_columns(rows: pl.DataFrame, columns: Sequence[str], label: str) -> list[StrongColumn]:
    """Find columns that by themselves predict the label nearly perfectly, strongest first.

    Parameters
    ----------
    rows
        The training set; a sample of its rows is measured.
    columns
        The columns of ``X``.
    label
        The label column. A label with two values needs 25 sampled rows of each. Any other label must be numeric and needs 50 sampled rows
        without nulls. Otherwise nothing is found.
    """
    sample = sample_rows(rows).drop_nulls(label)
    classes = sample[label].unique().sort()
    if len(classes) == 2:
        positive = sample[label] == classes[1]
        if min(int(positive.sum()), sample.height - int(positive.sum())) < _MIN_ROWS:
            return []
        strengths = {c: _measure_auc(sample[c], positive) for c in columns}
        return _rank_strength({c: s for c, s in strengths.items() if s >= _MIN_AUC}, of_classes=True)
    if not sample[label].dtype.is_numeric() or sample.height < 2 * _MIN_ROWS:
        return []
    return _rank_strength(
        {
            c: s
            for c in columns
            if _is_ordered(sample[c].dtype) and (s := _measure_agreement(sample[c], sample[label])) >= _MIN_RANK_CORRELATION
        },
        of_classes=False,
    )


def find_later_times(rows: pl.DataFrame, columns: Sequence[str], event_timestamp: str) -> list[LaterTime]:
    """Find columns of ``X`` with times after the event of their row.

    Two times with a zone, or two without, are compared exactly. If only one of them has a zone, the other may stand for any zone: a time
    is later only if it is later in every zone from UTC-12 to UTC+14. So the start of the date 2024-01-02 counts as 2024-01-01 10:00 UTC.

    Parameters
    ----------
    rows
        The training set.
    columns
        The columns of ``X``.
    event_timestamp
        The column with the time of each row. An event with a date lasts until the end of the date.
    """
    later_times = []
    for column in columns:
        if column == event_timestamp or not isinstance(rows[column].dtype, pl.Datetime | pl.Date):
            continue
        late = rows.filter(_compare_times(rows, column, event_timestamp))
        if late.height:
            later_times.append(LaterTime(column, late.height, str(late[column][0]), str(late[event_timestamp][0])))
    return later_times


def _compare_times(rows: pl.DataFrame, column: str, event_timestamp: str) -> pl.Expr:
    """Return an expression that is true where the time in a column is later than the event in every possible time zone."""
    time, event = (pl.col(name).cast(pl.Datetime("us")) for name in (column, event_timestamp))
    zoned, event_zoned = (isinstance(d, pl.Datetime) and d.time_zone is not None for d in (rows[column].dtype, rows[event_timestamp].dtype))
    if event_zoned and not zoned:
        time = time - _EARLIEST_ZONE
    if zoned and not event_zoned:
        event = event + _LATEST_ZONE
    return time >= event + timedelta(days=1) if rows[event_timestamp].dtype == pl.Date else time > event


def _rank_strength(strengths: dict[str, float], *, of_classes: bool) -> list[StrongColumn]:
    return [StrongColumn(c, s, of_classes) for c, s in sorted(strengths.items(), key=lambda item: -item[1])]


def _measure_auc(column: pl.Series, positive: pl.Series) -> float:
    """Return the area under the ROC curve of a column as a score, in the better direction; 0 for a type without an order.

    Text is scored by the rate of the second class among equal values, see :func:`_class_rates`. Nulls and NaN rank lowest.
    """
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        values = _class_rates(column.cast(pl.String), positive)
    elif _is_ordered(column.dtype):
        values = column.to_physical().cast(pl.Float64)
    else:
        return 0.0
    ranks = values.fill_nan(None).fill_null(float("-inf")).rank("average")
    positives = int(positive.sum())
    negatives = len(positive) - positives
    area = (float(ranks.filter(positive).sum()) - positives * (positives + 1) / 2) / (positives * negatives)
    return max(area, 1 - area)


def _class_rates(column: pl.Series, positive: pl.Series) -> pl.Series:
    """Return, for each row, the rate of the second class among rows with the same value in the other half.

    Halves are the odd and the even rows, so that a row's rate does not include its own label. A value that the other half lacks gets the
    rate of all rows.
    """
    rows = pl.DataFrame({"value": column, "positive": positive}).with_row_index("row").with_columns(half=pl.col("row") % 2)
    others = rows.group_by("value", "half").agg(share=pl.col("positive").mean()).with_columns(half=1 - pl.col("half"))
    joined = rows.join(others, on=["value", "half"], how="left", nulls_equal=True, maintain_order="left")
    return joined["share"].fill_null(float(positive.mean() or 0))  # type: ignore[arg-type]  # the mean of booleans
