"""Keys that a table already has in other partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb

from mlops_assets.stores.lake.rows import as_polars, sql_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from mlops_assets.stores.lake.ducklake import DuckLake
    from mlops_assets.values.window import TimeWindow

MOST_KEYS = 1000


def keys_elsewhere(  # noqa: PLR0913  (where it looks)
    lake: DuckLake, table: str, keys: pl.DataFrame, spans: Sequence[TimeWindow], *, event_timestamp: str, snapshot: int
) -> pl.DataFrame:
    """Return the keys that rows outside of ``spans`` have as well, each with the time of such a row; only the key's columns are read.

    Parameters
    ----------
    lake, table, snapshot
        Where to look; a table that does not exist has no keys.
    keys
        The key columns of rows that are about to be written.
    spans
        The windows that they will replace.
    event_timestamp
        The column that partitions the table.
    """
    columns = [f'"{name}"' for name in keys.columns]
    inside = " OR ".join(f'("{event_timestamp}" >= ? AND "{event_timestamp}" < ?)' for _ in spans)
    values: list[Any] = [edge for span in spans for edge in (span.start, span.end)]
    cursor = lake.connections.cursor()
    cursor.register("mlops_keys", keys.unique().to_arrow())
    try:
        return as_polars(
            cursor.execute(
                f'SELECT {", ".join(columns)}, max("{event_timestamp}") AS "__elsewhere" FROM {sql_name(table)} AT (VERSION => {int(snapshot)}) '
                f"SEMI JOIN mlops_keys USING ({', '.join(columns)}) WHERE NOT ({inside}) GROUP BY ALL ORDER BY ALL LIMIT {MOST_KEYS}",
                values,
            )
        )
    except duckdb.CatalogException:
        return keys.clear()
    finally:
        cursor.unregister("mlops_keys")
