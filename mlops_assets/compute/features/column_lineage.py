"""Column lineage: the source columns from which a query computes each of its columns."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LOG = logging.getLogger(__name__)


def trace_columns(query: str, columns: Sequence[str], tables: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[str, str]]]:
    """Return the source columns of each column of a query.

    Parameters
    ----------
    query
        One SELECT in DuckDB's SQL.
    columns
        The columns of the query to trace.
    tables
        The tables that the query may read: name → columns.

    Returns
    -------
    dict
        Column → sorted ``(table, column)``; a table is ``schema/name`` if the query names the schema. A column with unknown sources has
        no entry. The dict is empty when ``sqlglot`` is not installed. Missing lineage never fails a step.
    """
    if importlib.util.find_spec("sqlglot") is None:
        return {}
    schema = {name: dict.fromkeys(names, "VARCHAR") for name, names in tables.items()}
    return {column: sources for column in columns if (sources := _source_columns(query, column, schema))}


def _source_columns(query: str, column: str, schema: dict[str, Any]) -> list[tuple[str, str]]:
    import sqlglot
    from sqlglot.lineage import lineage

    try:
        root = lineage(column, query, schema=schema, dialect="duckdb")
    except (sqlglot.errors.SqlglotError, ValueError, KeyError) as error:
        _LOG.debug("no lineage of %s: %s", column, error)
        return []
    leaves = [node for node in root.walk() if not node.downstream and isinstance(node.source, sqlglot.exp.Table)]
    return sorted({(_table_name(node.source), node.name.rpartition(".")[2].strip('"')) for node in leaves})


def _table_name(table: Any) -> str:  # noqa: ANN401  (an expression of sqlglot)
    return f"{table.db}/{table.name}" if table.db else str(table.name)
