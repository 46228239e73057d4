"""Compare runs: the best value of each metric, and the parameters that differ."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

_LOSS = re.compile(r"(^|[^a-z])(loss|logloss|error|err|rmse|mae|mse|mape|deviance|perplexity)([^a-z]|$)|_loss|_error|logloss")


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run in a comparison.

    Parameters
    ----------
    id, experiment, name, status
        As recorded.
    started_at, duration
        ``started_at`` is in UTC. ``duration`` is None while the run is active, or after it was killed.
    params, metrics, tags
        As recorded.
    curves
        Metric → steps and values, ordered by step.
    """

    id: str
    experiment: str
    name: str
    status: str
    started_at: datetime
    duration: timedelta | None
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and short id, as tables show them."""
        return f"{self.name} ({self.id[:8]})" if self.name else self.id[:8]


@dataclass(frozen=True)
class MetricComparison:
    """One metric of all runs.

    Parameters
    ----------
    name
        The name of the metric.
    values
        One per run; None where a run lacks the metric.
    best
        Indices of the best values; empty when all are equal or fewer than two are defined.
    smaller
        Whether the minimum is the best.
    """

    name: str
    values: tuple[float | None, ...]
    best: frozenset[int]
    smaller: bool


@dataclass(frozen=True)
class ParamComparison:
    """One parameter of all runs, with a value as text per run; None where a run lacks the parameter."""

    name: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs have different values; a run without the parameter differs from one with it."""
        return len(set(self.values)) > 1


def smaller_is_better(metric: str) -> bool:
    """Return True if a metric's name says that it is a loss or an error; scikit-learn's ``neg_`` scores are neither.

    Parameters
    ----------
    metric
        E.g. ``loss``, ``valid_0.binary_logloss``, ``neg_log_loss``.
    """
    name = metric.lower()
    return bool(_LOSS.search(name)) and not re.search(r"(^|[^a-z])neg_", name)


def compare_metrics(runs: Sequence[ComparedRun]) -> list[MetricComparison]:
    """Return every metric of the runs, sorted by name."""
    return [
        _compare_metric(name, tuple(run.metrics.get(name) for run in runs)) for name in sorted({n for run in runs for n in run.metrics})
    ]


def compare_params(runs: Sequence[ComparedRun]) -> list[ParamComparison]:
    """Return every parameter of the runs, differing ones first, then by name."""
    names = sorted({name for run in runs for name in run.params})
    rows = [ParamComparison(name, tuple(_to_text(run.params[name]) if name in run.params else None for run in runs)) for name in names]
    return sorted(rows, key=lambda row: not row.differs)


def _compare_metric(name: str, values: tuple[float | None, ...]) -> MetricComparison:
    smaller = smaller_is_better(name)
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(known) < 2 or len(set(known)) == 1:
        return MetricComparison(name, values, frozenset(), smaller)
    best = min(known) if smaller else max(known)
    return MetricComparison(name, values, frozenset(i for i, value in enumerate(values) if value == best), smaller)


def _to_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
