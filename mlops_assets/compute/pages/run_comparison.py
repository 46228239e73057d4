"""Runs side by side: which figure is the best of each metric, and in which parameters they differ."""

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
    """One of the runs that are compared.

    Parameters
    ----------
    id, experiment, name, status
        As recorded.
    started_at, duration
        The latter None while it goes on, or was killed.
    params, metrics, tags
        As recorded.
    curves
        By metric: steps and values, in the order of the steps.
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
        """How it is called in a table."""
        return f"{self.name} ({self.id[:8]})" if self.name else self.id[:8]


@dataclass(frozen=True)
class MetricRow:
    """One metric of all runs.

    Parameters
    ----------
    name
        Of the metric.
    values
        One a run, None where it has none.
    best
        Places of the best values; empty when all are equal, or only one is a number.
    smaller
        Whether the smallest is the best.
    """

    name: str
    values: tuple[float | None, ...]
    best: frozenset[int]
    smaller: bool


@dataclass(frozen=True)
class ParamRow:
    """One parameter of all runs, as text; None where a run has none."""

    name: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether not all runs have the same."""
        return len(set(self.values)) > 1


def smaller_is_better(metric: str) -> bool:
    """Whether a metric is a loss or an error by its name; scikit-learn's ``neg_`` scores are greater when better.

    Parameters
    ----------
    metric
        E.g. ``loss``, ``valid_0.binary_logloss``, ``neg_log_loss``.
    """
    name = metric.lower()
    return bool(_LOSS.search(name)) and not re.search(r"(^|[^a-z])neg_", name)


def metric_rows(runs: Sequence[ComparedRun]) -> list[MetricRow]:
    """Return every metric that a run has, by name."""
    return [_metric(name, tuple(run.metrics.get(name) for run in runs)) for name in sorted({n for run in runs for n in run.metrics})]


def param_rows(runs: Sequence[ComparedRun]) -> list[ParamRow]:
    """Return every parameter that a run has: those that differ first, by name."""
    names = sorted({name for run in runs for name in run.params})
    rows = [ParamRow(name, tuple(_text(run.params[name]) if name in run.params else None for run in runs)) for name in names]
    return sorted(rows, key=lambda row: not row.differs)


def _metric(name: str, values: tuple[float | None, ...]) -> MetricRow:
    smaller = smaller_is_better(name)
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(known) < 2 or len(set(known)) == 1:
        return MetricRow(name, values, frozenset(), smaller)
    best = min(known) if smaller else max(known)
    return MetricRow(name, values, frozenset(i for i, value in enumerate(values) if value == best), smaller)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
