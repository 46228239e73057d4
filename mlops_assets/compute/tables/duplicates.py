"""Resolve rows with a duplicate key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import polars as pl

from mlops_assets.compute.tables.stored_types import cast_to_stored
from mlops_assets.errors import DataError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Sequence

Keep = Literal["first", "last"]


def drop_duplicates(frame: pl.DataFrame, key: Sequence[str], keep: Keep, order_by: str | None = None) -> tuple[pl.DataFrame, int]:
    """Return one row per key, in the order of the frame, and the number of dropped rows.

    Parameters
    ----------
    frame
        Rows as a function returned them; rows with a null in the key are kept, and the check of the key refuses them later.
    key
        Columns that identify a row. If one is missing, the frame is returned unchanged, and the check of the key refuses it later.
    keep
        Which row of each key to keep: ``first`` or ``last``.
    order_by
        The column that orders the rows of a key, nulls first. The order in the frame decides when None, and between equal values.

    Raises
    ------
    DataError
        There is no column ``order_by``, or the lake cannot hold a column of the key.

    Examples
    --------
    >>> import polars as pl
    >>> rows, count = drop_duplicates(pl.DataFrame({"id": [1, 1, 2], "at": [5, 4, 3]}), ["id"], "last", "at")
    >>> rows.rows(), count
    ([(1, 5), (2, 3)], 1)
    """
    if order_by is not None and order_by not in frame.columns:
        raise DataError(
            f"order_by names the column '{order_by}', which the rows lack",
            hint=suggest_name(order_by, frame.columns) + f"they have {', '.join(frame.columns)}",
        )
    if not set(key) <= set(frame.columns):
        return frame, 0
    rows = cast_to_stored(frame.select(key)).select(
        whole=pl.all_horizontal(pl.all().is_not_null()), key=pl.struct(pl.all()), row=pl.int_range(pl.len())
    )
    if order_by is not None:
        rows = rows.with_columns(order=frame[order_by]).sort("order", nulls_last=False, maintain_order=True)
    chosen = rows.filter("whole").unique("key", keep=keep, maintain_order=True)["row"]
    row_numbers = pl.concat([chosen, rows.filter(~pl.col("whole"))["row"]]).sort()
    return frame[row_numbers], frame.height - row_numbers.len()
