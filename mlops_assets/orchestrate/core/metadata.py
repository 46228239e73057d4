"""Metadata of materialisations and check results for the Dagster UI."""

import base64
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

    from mlops_assets.compute.tables.verify import Outcome

PREVIEW_ROWS = 5
Log = Callable[[str], object]
_LOGGER = logging.getLogger(__name__)


def table_metadata(frame: "pl.DataFrame", descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Return a table's metadata: row count, schema with column descriptions, null share of each column with nulls, and a preview of five rows."""
    nulls = [{"column": c, "null": f"{frame[c].null_count() / max(frame.height, 1):.2%}"} for c in frame.columns if frame[c].null_count()]
    return {
        "dagster/row_count": frame.height,
        "dagster/column_schema": column_schema(frame, descriptions),
        **draw_safely("null shares", lambda: {"null shares": to_markdown(nulls)}),
        **draw_safely("preview", lambda: {"preview": to_markdown(frame.head(PREVIEW_ROWS).to_dicts())}),
    }


def draw_safely(name: str, draw: Callable[[], Mapping[str, Any]], log: Log = _LOGGER.warning) -> dict[str, Any]:
    """Return the figures that ``draw`` returns; if it raises an error, log it and return a warning under ``name``: no figure fails a step."""
    try:
        return dict(draw())
    except Exception as error:  # noqa: BLE001  (a figure for display fails no step)
        return warn_of_figure(name, f"{type(error).__name__}: {error}", log)


def warn_of_figure(name: str, reason: str, log: Log = _LOGGER.warning) -> dict[str, Any]:
    """Log that a figure cannot be drawn, and return the warning as metadata."""
    log(f"'{name}' cannot be drawn: {reason}")
    return {name: dg.MetadataValue.text(f"warning: not drawn ({reason})")}


def column_schema(frame: "pl.DataFrame", descriptions: Mapping[str, str]) -> dg.TableSchema:
    """Return names, types and descriptions of a frame's columns as Dagster's table schema."""
    return dg.TableSchema([dg.TableColumn(name, str(dtype), descriptions.get(name)) for name, dtype in frame.schema.items()])


def to_markdown(rows: list[dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Return rows as a Markdown table with the columns of the first row; ``none`` without rows."""
    if not rows:
        return dg.MetadataValue.md("none")
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_format_cell(row[column]) for column in head] for row in rows)]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _format_cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def to_table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """Return one or more rows as table metadata, which programs can read; a column is text unless all values are finite floats."""
    cells = [
        {
            name: value if isinstance(value, str) or (isinstance(value, float) and math.isfinite(value)) else str(value)
            for name, value in row.items()
        }
        for row in rows
    ]
    kinds = {name: "float" if all(isinstance(row[name], float) for row in cells) else "string" for name in cells[0]}
    as_text = [{name: value if kinds[name] == "float" else str(value) for name, value in row.items()} for row in cells]
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in kinds.items()])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in as_text], schema)


def to_images(drawings: Mapping[str, bytes | str], log: Log = _LOGGER.warning) -> dict[str, Any]:
    """Return drawings, title → PNG, as metadata; a text in place of a PNG is the reason of a failure and becomes a warning."""
    images: dict[str, Any] = {}
    for title, png in drawings.items():
        images |= warn_of_figure(title, png, log) if isinstance(png, str) else {title: to_image(png, title)}
    return images


def to_image(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata that the UI displays."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def to_check_result(key: dg.AssetKey, outcome: "Outcome") -> dg.AssetCheckResult:
    """Return the outcome of a check as Dagster's check result; its severity is a warning unless the outcome is blocking or serious."""
    return dg.AssetCheckResult(
        passed=outcome.passed,
        asset_key=key,
        check_name=outcome.check,
        severity=dg.AssetCheckSeverity.ERROR if outcome.blocking or outcome.serious else dg.AssetCheckSeverity.WARN,
        description=outcome.reason or None if outcome.passed else f"{outcome.message}. Hint: {outcome.hint}",
        metadata=_plain_facts(outcome.facts),
    )


def _plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in facts.items()}
