"""The report of cost and latency of an evaluation: per request, for each version and for each slice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlops_assets.orchestrate.core.metadata import to_table
from mlops_assets.orchestrate.llm.call_costs import sum_calls
from mlops_assets.orchestrate.llm.measurement import measure_latency
from mlops_assets.values.llm.prompt_evaluation import LATENCY_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from mlops_assets.orchestrate.llm.evaluation_results import EvaluationResults, ScoredCase

_UNKNOWN = "unknown"
_DIGITS = 12  # of the hash that names a version


def describe_operations(results: EvaluationResults, production: EvaluationResults | None) -> dg.TableMetadataValue:
    """Return a table of durations, tokens and costs per request: of all cases and of each slice, for the prompt and for the production version.

    Parameters
    ----------
    results, production
        The evaluation of the prompt, and that of the production version on the same cases; None when it was not needed.
    """
    rows = _describe_version(results, results.version[:_DIGITS])
    if production is not None:
        rows += _describe_version(production, f"{production.version[:_DIGITS]} (production)")
    return to_table(rows)


def _describe_version(results: EvaluationResults, version: str) -> list[dict[str, Any]]:
    groups = [("all", results.scored)]
    groups += [(f"{column} {value}", cases) for column in results.evaluation.slices for value, cases in results.list_slices(column)]
    return [{"version": version, "slice": label, **_describe_cases(results, cases)} for label, cases in groups]


def _describe_cases(results: EvaluationResults, scored: Sequence[ScoredCase]) -> dict[str, str]:
    completions = [one.call.completion for one in scored if one.call.completion is not None]
    tokens = {
        "input tokens": [completion.prompt_tokens for completion in completions],
        "output tokens": [completion.completion_tokens for completion in completions],
    }
    return {
        "cases": str(len(scored)),
        "failed calls": str(len(scored) - len(completions)),
        **{name.replace("_", " "): _format_number(measure_latency(name, scored)) for name in LATENCY_METRICS},
        **{f"mean {name}": _format_mean(counts) for name, counts in tokens.items()},
        **_describe_costs(results, scored),
    }


def _describe_costs(results: EvaluationResults, scored: Sequence[ScoredCase]) -> dict[str, str]:
    if results.prices is None:
        return {}
    spend = sum_calls(results.prices, (one.call for one in scored))
    return {"mean cost (USD)": _format_number(spend.mean, ".6g"), "total cost": str(spend)}


def _format_number(value: float, style: str = ".4g") -> str:
    return _UNKNOWN if math.isnan(value) else f"{value:{style}}"


def _format_mean(counts: Sequence[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known) / len(known):.1f}" if known and len(known) == len(counts) else _UNKNOWN
