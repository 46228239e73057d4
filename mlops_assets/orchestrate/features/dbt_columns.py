"""Describe how a dbt run changed the columns of a table, and which columns an incremental model ignored."""

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
    """Return sentences about changed columns of a dbt model's table; none when the table is new.

    The columns are compared with those before the run and with those of the model's query.

    Parameters
    ----------
    lake
        The lake after the dbt run.
    table
        ``features/<name>``.
    before
        The table's columns before the run; empty when there was none.
    compiled
        The compiled query of the model.
    incremental
        Whether the model adds to its table.
    """
    after = lake.schema(table)
    if not before:
        return ()
    missing = _describe_missing_columns(lake, after, compiled) if incremental else []
    return (*describe_changes(pl.DataFrame(schema=after), before), *missing)


def _describe_missing_columns(lake: Lake, after: Mapping[str, pl.DataType], compiled: str) -> list[str]:
    """Return a sentence for each column of the query that the table lacks: dbt ignores such columns by default."""
    known = {name.lower() for name in after}
    return [
        f"column '{name}' of the model's query is not in its table: set {_POLICIES}"
        for name in lake.query_columns(compiled)
        if name.lower() not in known
    ]


def explain_column_error(error: BaseException, tables: Mapping[str, Mapping[str, pl.DataType]]) -> BaseException:
    """Return the error to raise for a failed dbt run: ``error`` itself, unless changed columns of an incremental model caused it.

    In that case, it is a DataError with a hint about ``on_schema_change``.

    Parameters
    ----------
    error
        The error of the dbt run.
    tables
        Incremental model of the run → columns of its table before the run.
    """
    text = str(error)
    for name, columns in tables.items():
        column = _COLUMN.search(text)
        match = column if column and column[1] in columns else _OUT_OF_SYNC.search(text)
        if columns and match and re.search(rf"in model {re.escape(name)}\b", text):
            return DataError(
                f"the incremental dbt model '{name}' does not fit its table, which has the columns of earlier runs: {match[0].strip()}",
                hint=f"set {_POLICIES} in the model's config for new or removed columns; cast a column of another type to the old type",
            )
    return error
