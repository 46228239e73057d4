"""What a dbt run has changed of a table's columns, and what an incremental model does not take into its table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.errors import DataError
from mlops_assets.stores.lake.column_types import describe_changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.lake.protocol import Lake

_OUT_OF_SYNC = re.compile(r".*out of sync.*")
_COLUMN = re.compile(r'.*(?:Binder Error: Referenced column|Conversion Error: .* source column) "?([^\s"]+)"?.*')
_POLICIES = "on_schema_change='append_new_columns' or 'sync_all_columns'"


def describe_column_changes(
    lake: Lake, table: str, before: Mapping[str, pl.DataType], compiled: str, *, incremental: bool
) -> tuple[str, ...]:
    """Return in words how the columns of a dbt model's table differ from those before the run, and from those of its query.

    Parameters
    ----------
    lake
        As dbt left it.
    table
        ``features/<name>``.
    before
        The table's columns before the run; empty when there was none.
    compiled
        The model's query as dbt ran it.
    incremental
        Whether the model adds to its table.
    """
    after = lake.schema(table)
    if not before:
        return ()
    left_out = _describe_missing_columns(lake, after, compiled) if incremental else []
    return (*describe_changes(pl.DataFrame(schema=after), before), *left_out)


def _describe_missing_columns(lake: Lake, after: Mapping[str, pl.DataType], compiled: str) -> list[str]:
    """Name the columns of a query that its table does not have: dbt ignores them unless it is told otherwise."""
    known = {name.lower() for name in after}
    return [
        f"column '{name}' of the model's query is not in its table: say {_POLICIES}"
        for name in lake.query_columns(compiled)
        if name.lower() not in known
    ]


def explain_column_error(error: Exception, tables: Mapping[str, Mapping[str, pl.DataType]]) -> Exception:
    """Return an error that names ``on_schema_change``, where an incremental model failed because its columns have changed; else the error.

    Parameters
    ----------
    error
        What dbt said.
    tables
        Each incremental model of the run, with the columns of its table before.
    """
    text = str(error)
    for name, columns in tables.items():
        column = _COLUMN.search(text)
        found = column if column and column[1] in columns else _OUT_OF_SYNC.search(text)
        if columns and found and re.search(rf"in model {re.escape(name)}\b", text):
            return DataError(
                f"the incremental dbt model '{name}' does not fit its table, which has the columns of earlier runs: {found[0].strip()}",
                hint=f"say {_POLICIES} in the model's config for columns that are new or gone; cast a column of another type to the old one",
            )
    return error
