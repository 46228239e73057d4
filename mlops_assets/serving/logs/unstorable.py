"""Which logged predictions the lake cannot hold: their lines are set aside, so that the others of their day are brought in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.serving.logs.served import cast_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlops_assets.serving.logs.inference_log import Record

_KINDS: dict[str, set[type]] = {"String": {str, int, float, bool}, "Date": {str}, "Boolean": {bool, int}}


def split_storable(
    records: Sequence[Record], *, types: Mapping[str, str], keys: Mapping[str, str], prediction_type: str
) -> tuple[list[Record], list[str]]:
    """Return the predictions that the lake can hold, and a sentence for each of the others.

    Parameters
    ----------
    records
        Of the log.
    types, keys, prediction_type
        As of :func:`mlops_assets.serving.logs.served.served`.
    """
    problems: dict[int, str] = {}
    readers: list[tuple[str, str, Callable[[Record], Any]]] = [
        ("prediction", prediction_type, lambda record: record.prediction),
        ("probability", "Float64", lambda record: record.probability),
        *((name, dtype, lambda record, name=name: record.key.get(name)) for name, dtype in keys.items() if name not in types),
        *((name, dtype, lambda record, name=name: record.x.get(name)) for name, dtype in types.items()),
    ]
    for name, dtype, read in readers:
        for row in _unfit(name, [read(record) for record in records], dtype):
            problems.setdefault(row, f"prediction '{records[row].id}': '{name}' is no value that a column of {dtype} can hold")
    return [record for row, record in enumerate(records) if row not in problems], [problems[row] for row in sorted(problems)]


def _unfit(name: str, values: Sequence[Any], dtype: str) -> Iterator[int]:
    """Yield the rows whose value does not fit; a column of the expected kinds is checked as a whole."""
    fitting = _KINDS.get(dtype, {int, float, bool})
    wrong = {row for row, value in enumerate(values) if value is not None and type(value) not in fitting}
    wrong |= {row for row, value in enumerate(values) if isinstance(value, str) and "\0" in value}
    yield from wrong
    if dtype == "String" or len(wrong) == len(values):
        return
    series = pl.Series(name, [None if row in wrong else value for row, value in enumerate(values)], strict=False)
    cast = cast_logged(series, dtype, strict=False)
    yield from (int(row) for row in (cast.is_null() & series.is_not_null()).arg_true())
