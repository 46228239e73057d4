"""The step of traces: import them from the trace log into the lake, by day."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from mlops_assets.compute.llm_traces.trace_rows import TRACE_KEY, TRACE_TIME, build_trace_rows
from mlops_assets.compute.llm_traces.trace_tree import select_calls, select_roots
from mlops_assets.compute.tables.verify import check_names, verify
from mlops_assets.orchestrate.core.graph import Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.partitions import days_until_today
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.stored_rows import LOG_READABLE, add_stored_rows, build_log_metadata, build_log_outcome
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.values.dataset import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.values.llm.prompt_service import PromptService
    from mlops_assets.values.llm.trace_source import TraceSource
    from mlops_assets.values.platform import Platform

LLM_GROUP = "llm"  # of traces without a prompt
_MAX_MODELS = 10  # rows of the table in the metadata


def find_trace_folder(source: TraceSource, platform: Platform) -> Path:
    """Return the folder of a trace log; it may not exist yet."""
    from mlops_assets.serving.logs.trace_log import TRACE_FOLDER

    return source.folder or Path(platform.home) / "services" / source.name / TRACE_FOLDER


def traces_node(source: TraceSource, platform: Platform) -> Node:
    """Return the node of traces in the asset graph; its external input is the trace log."""
    return Node(source.key, days_until_today(source.start), external_inputs=lambda keys: _hash_days(source, platform, keys))


def _hash_days(source: TraceSource, platform: Platform, keys: Sequence[str]) -> Mapping[str, str]:
    """Return day → hash of its log files, for the days among ``keys`` that the log has."""
    from mlops_assets.serving.logs.day_log import hash_log_files, list_log_days

    folder, wanted = find_trace_folder(source, platform), set(keys)
    return {day.isoformat(): hash_log_files(folder, day, day) for day in list_log_days(folder) if day.isoformat() in wanted}


def _table_rules(source: TraceSource) -> Table:
    """Return the rules for imported traces: each span occurs once, on the day of its trace. A day may be empty."""
    return Table(partitions=days_until_today(source.start), key=TRACE_KEY, event_timestamp=TRACE_TIME, allow_empty=True)


def traces_spec(
    source: TraceSource,
    node: Node,
    run: Callable[..., Iterator[object]],
    condition: dg.AutomationCondition[Any],
    service: PromptService | None = None,
) -> StepSpec:
    """Return the step spec of traces.

    Parameters
    ----------
    source, node
        The source of the traces, and their node.
    run
        The function that Dagster calls.
    condition
        The default automation condition.
    service
        The service that writes the log, in whose group the traces are; None for another application.
    """
    names = (*check_names(_table_rules(source)), LOG_READABLE)
    return StepSpec(
        node.key,
        run,
        group=service.prompt.name if service else LLM_GROUP,
        description=f"Traces of {source.name}, from its log: a row for each span.",
        kinds=frozenset({"llm", "duckdb"}),
        partitions=node.partitions,
        deps=[dg.AssetDep(asset_key(service.key))] if service else [],  # for the graph; the traces follow the log
        checks=build_check_specs(node.key, names, warnings=(LOG_READABLE,)),
        options=source.options,
        condition=condition,
    )


def traces_body(source: TraceSource) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that imports traces."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, _table_rules(source), lambda: _import_traces(step, source))

    return body


def _import_traces(step: StepContext, source: TraceSource) -> CheckedTable:
    """Return the logged and the stored spans of the step's days, the outcomes of their checks, and facts for the UI."""
    from mlops_assets.serving.logs.trace_log import read_traces

    rules, corrupt = _table_rules(source), list[str]()
    days = [date.fromisoformat(key) for key in step.keys]
    logged = read_traces(find_trace_folder(source, step.stores.platform), min(days), max(days), corrupt)
    rows = build_trace_rows({day: spans for day, spans in logged.items() if day in set(days)})
    stored, lake_only = add_stored_rows(step, rows.frame, rules)
    facts = describe_traces(stored) | build_log_metadata(lake_only, corrupt)
    if rows.lost_feedback:
        facts["feedback without its trace"] = rows.lost_feedback
    return CheckedTable(stored, [*verify(stored, rules, step.windows), build_log_outcome(corrupt)], facts)


def describe_traces(frame: pl.DataFrame) -> dict[str, Any]:
    """Return the figures of traces for the UI: counts, tokens, costs, and a row for each model and version of the prompt.

    Parameters
    ----------
    frame
        Rows of spans.
    """
    calls = select_calls(frame)
    models = calls.group_by("model").agg(
        pl.len().alias("calls"),
        (pl.col("status") == "error").sum().alias("errors"),
        pl.col("input_tokens").sum().alias("input tokens"),
        pl.col("output_tokens").sum().alias("output tokens"),
        pl.col("seconds").quantile(0.95).round(4).alias("p95 seconds"),
    )
    is_free = (pl.col("status") == "error") & (pl.col("may_be_billed") == 0).fill_null(value=False)
    return {
        "traces": frame["trace_id"].n_unique(),
        "errors": select_roots(frame).filter(pl.col("status") == "error").height,
        "feedback": int(frame["feedback"].count()),
        "known cost": float(calls["cost"].sum()),
        "requests of unknown cost": calls.filter(pl.col("cost").is_null() & ~is_free).height,
        "models": to_markdown(models.sort("calls", "model", descending=True).head(_MAX_MODELS).to_dicts()),
    }
