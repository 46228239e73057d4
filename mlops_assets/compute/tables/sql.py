"""Run SQL queries over frames, in DuckDB."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.errors import DataError, DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.window import TimeWindow


@cache
def find_table_names(query: str) -> tuple[str, ...]:
    """Return the names of the tables that a query reads, sorted.

    Raises
    ------
    DefinitionError
        The query is not a single SELECT that DuckDB can parse.
    """
    import duckdb

    with duckdb.connect() as connection:
        try:
            kinds = [statement.type for statement in connection.extract_statements(query)]
            if kinds != [duckdb.StatementType.SELECT]:
                raise DefinitionError(
                    f"the query is not one SELECT: {_shorten_query(query)}", hint="give one SELECT, WITH clauses included"
                )
            return tuple(sorted(connection.get_table_names(query)))
        except duckdb.Error as error:
            raise DefinitionError(f"the query cannot be parsed: {error}", hint="correct it; the dialect is DuckDB SQL") from error


def run_query(query: str, tables: Mapping[str, pl.DataFrame], window: TimeWindow | None, what: str) -> pl.DataFrame:
    """Run a query over frames in DuckDB and return the result; times with a time zone are in UTC.

    Parameters
    ----------
    query
        One SELECT.
    tables
        Name → frame of each table that the query reads.
    window
        The window of the query variables ``window_start`` and ``window_end``; both are unset when None.
    what
        The asset with the query, named in error messages.

    Raises
    ------
    DataError
        The query fails.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, frame in tables.items():
            connection.register(name, frame.to_arrow())
        for name, time in (("window_start", window.start), ("window_end", window.end)) if window else ():
            connection.execute(f"SET VARIABLE {name} = TIMESTAMPTZ '{time.isoformat()}'")
        try:
            frame = pl.DataFrame(connection.execute(query).to_arrow_table())
        except duckdb.Error as error:
            raise DataError(
                f"the query of {what} fails: {str(error).splitlines()[0]}",
                hint="correct the query; to try it, run it in DuckDB on the same tables",
            ) from error
    zoned = [pl.col(n).cast(pl.Datetime("us", "UTC")) for n, t in frame.schema.items() if isinstance(t, pl.Datetime) and t.time_zone]
    return frame.with_columns(zoned) if zoned else frame


def _shorten_query(query: str) -> str:
    text = " ".join(query.split())
    return text if len(text) <= 60 else f"{text[:57]}…"
