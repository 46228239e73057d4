"""Check that on-demand features agree between batch (many rows) and requests (one row)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.features.on_demand import apply_on_demand, columns_as_arrays
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SAMPLE_ROWS = 32
_TEXTS = ("a", "B", "", "été", "0012", "a longer text")


def find_parity_violation(function: Callable[..., Any], rows: pl.DataFrame) -> str:
    """Return the first difference between a function's results for one row alone and in a batch, as text; empty if all results agree.

    Parameters
    ----------
    function
        An on-demand function.
    rows
        Rows with the columns that the function reads.

    Raises
    ------
    DataError
        The function fails on the batch of all rows.
    """
    if rows.is_empty():
        return ""
    together = _compute_features(function, rows)
    for index in range(rows.height):
        try:
            alone = _compute_features(function, rows[index : index + 1])
        except Exception as error:  # noqa: BLE001  (a user's function may raise anything)
            return f"it computes {rows.height} rows together, but fails for one row alone ({type(error).__name__}: {error})"
        if set(alone) != set(together):
            return f"it returns {', '.join(sorted(together))} for {rows.height} rows, but {', '.join(sorted(alone))} for one row"
        for name, values in together.items():
            if not _are_equal(values[index], alone[name][0]):
                return f"'{name}' of row {index} is {_display_value(values[index])} among {rows.height} rows, and {_display_value(alone[name][0])} alone"
    return ""


def check_row_parity(function: Callable[..., Any], rows: pl.DataFrame, owner: str) -> None:
    """Raise DataError if a function gives another result for a row alone than for the same row in a batch.

    Parameters
    ----------
    function, rows
        As in :func:`find_parity_violation`.
    owner
        The definition that uses the function, named in the message.
    """
    if violation := find_parity_violation(function, rows):
        raise DataError(
            f"on-demand features '{getattr(function, '__name__', function)}' of {owner} are not the same in training and in serving: {violation}",
            hint="compute each row from its own values alone: no mean, rank, shift or random number over the rows",
        )


def make_sample_rows(types: Mapping[str, type]) -> pl.DataFrame:
    """Return 32 synthetic rows with typed columns, to check functions before data exists; equal types give equal rows.

    Parameters
    ----------
    types
        Column to ``float``, ``int``, ``bool``, ``str`` or ``datetime``.
    """
    rng = np.random.default_rng(0)
    makers = {
        "float": lambda: pl.Series(rng.normal(scale=100, size=SAMPLE_ROWS)),
        "int": lambda: pl.Series(rng.integers(-1000, 1000, SAMPLE_ROWS)),
        "bool": lambda: pl.Series(rng.random(SAMPLE_ROWS) < 0.5),
        "str": lambda: pl.Series([_TEXTS[i] for i in rng.integers(0, len(_TEXTS), SAMPLE_ROWS)]),
        "datetime": lambda: pl.Series(rng.integers(0, 2**31, SAMPLE_ROWS) * 1_000_000).cast(pl.Datetime("us", "UTC")),
    }
    return pl.DataFrame([makers[kind.__name__]().alias(name) for name, kind in types.items()])


def _compute_features(function: Callable[..., Any], rows: pl.DataFrame) -> dict[str, np.ndarray]:
    return apply_on_demand([function], columns_as_arrays(rows, rows.columns))


def _are_equal(first: Any, second: Any) -> bool:  # noqa: ANN401  (numpy scalars, or Python objects)
    """Return True if two values are equal or both are missing (None, NaN or NaT)."""
    if _is_missing(first) or _is_missing(second):
        return _is_missing(first) and _is_missing(second)
    return bool(first == second)


def _is_missing(value: Any) -> bool:  # noqa: ANN401
    return value is None or bool(value != value)  # noqa: PLR0124  (NaN, NaT)


def _display_value(value: Any) -> str:  # noqa: ANN401
    return repr(value.item() if isinstance(value, np.generic) else value)


def resolve_types(parameters: Sequence[str], known: Mapping[str, type]) -> dict[str, type] | None:
    """Return the types of all parameters; None when a type is unknown or there are no parameters."""
    types = {name: known[name] for name in parameters if name in known}
    return types if len(types) == len(parameters) and parameters else None
