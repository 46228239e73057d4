"""The result of a replay: each policy's windows with their metrics, versions, trainings and alarms, as JSON-like values."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.values.decisions import DRIFT
from mlops_assets.values.monitoring import BREACH, GOOD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


@dataclass(frozen=True)
class ReplayEvent:
    """A training of a policy: time, reason, training rows, and the outcome of its candidate.

    Parameters
    ----------
    time
        The end of the data that it was trained on (aware).
    reason
        The reason for the training.
    promoted
        The version that the candidate became; None when it was not promoted.
    outcome
        The results of the gates, or the error of the training.
    rows
        The number of rows that the version was fitted on; 0 after an error.
    span
        The training rows in words: ``all rows``, ``the last 90 days``.
    """

    time: datetime
    reason: str
    promoted: int | None
    outcome: str
    rows: int = 0
    span: str = ""


@dataclass(frozen=True)
class ReplayAlarm:
    """A window in which the version that the policy serves breached an expectation, according to the latest report of the window.

    Parameters
    ----------
    window, version
        The partition key of the window, and the version that predicted.
    reason
        The summary of the report.
    kind
        ``performance``, ``estimated`` or ``drift``, as in a :class:`~mlops_assets.values.decisions.WindowReport`.
    columns
        For ``drift``: the columns that have drifted, most drifted first.
    """

    window: str
    version: int
    reason: str
    kind: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowDrift:
    """The drift of a window from the training rows of the version that predicted it.

    Parameters
    ----------
    window, version
        The partition key of the window, and the version.
    state, summary
        State and summary of a drift report.
    columns
        The columns that have drifted, most drifted first.
    """

    window: str
    version: int
    state: str
    summary: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class DriftedColumn:
    """A column, the number of windows in which it has drifted, and in how many of them it is named first."""

    name: str
    windows: int
    first: int


@dataclass(frozen=True)
class WindowResult:
    """The predictions of a policy in one window, measured with all labels.

    Parameters
    ----------
    window, start, end
        The name of the window, and its span (aware).
    rows
        The number of predicted rows that have a label.
    metrics
        Metric → value; NaN where it is undefined.
    versions
        The versions that predicted, oldest first.
    """

    window: str
    start: datetime
    end: datetime
    rows: int
    metrics: Mapping[str, float]
    versions: tuple[int, ...]


@dataclass(frozen=True)
class PolicyResult:
    """The result of one policy.

    Parameters
    ----------
    policy
        The policy's name.
    windows
        Oldest first.
    events, alarms
        Trainings and alarms, oldest first.
    seconds
        CPU seconds of the fits that this policy needed, including fits that it shares with other policies.
    fits
        The number of these fits; a training with a refit on all rows has two.
    drift
        The drift of each window with rows, oldest first; None for a policy whose drift is not evaluated.
    """

    policy: str
    windows: tuple[WindowResult, ...]
    events: tuple[ReplayEvent, ...] = ()
    alarms: tuple[ReplayAlarm, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    fits: int = 0
    drift: tuple[WindowDrift, ...] | None = None

    @property
    def performance_alarms(self) -> tuple[ReplayAlarm, ...]:
        """The alarms of performance, of the error and of estimates."""
        return tuple(alarm for alarm in self.alarms if alarm.kind != DRIFT)

    @property
    def drift_alarms(self) -> tuple[ReplayAlarm, ...]:
        """The alarms of drift; empty for a policy whose drift is not evaluated."""
        return tuple(alarm for alarm in self.alarms if alarm.kind == DRIFT)

    @property
    def evaluated_windows(self) -> int:
        """The number of windows whose drift could be evaluated."""
        return len(self.drift or ()) - len(self.unmeasured_windows)

    @property
    def unmeasured_windows(self) -> tuple[WindowDrift, ...]:
        """The windows with rows whose drift could not be evaluated, such as those with few rows."""
        return tuple(found for found in self.drift or () if found.state not in (GOOD, BREACH))

    @property
    def drifted_columns(self) -> tuple[DriftedColumn, ...]:
        """The columns with drift alarms: those that are named first in most windows come first."""
        named, first = (Counter(names) for names in self._name_columns())
        columns = [DriftedColumn(name, count, first[name]) for name, count in named.items()]
        return tuple(sorted(columns, key=lambda column: (-column.first, -column.windows, column.name)))

    def _name_columns(self) -> tuple[list[str], list[str]]:
        alarms = self.drift_alarms
        return [name for alarm in alarms for name in alarm.columns], [alarm.columns[0] for alarm in alarms]

    @property
    def retrainings(self) -> tuple[ReplayEvent, ...]:
        """The trainings after the first promotion, which every policy needs."""
        first = next((number for number, event in enumerate(self.events) if event.promoted is not None), len(self.events))
        return self.events[first + 1 :]

    @property
    def promotions(self) -> int:
        """The number of retrainings that were promoted."""
        return sum(event.promoted is not None for event in self.retrainings)

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the windows in which it is defined; NaN without such a window."""
        values = [window.metrics[metric] for window in self.windows if math.isfinite(window.metrics[metric])]
        return sum(values) / len(values) if values else math.nan

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values; undefined metrics are None, and no value depends on the machine's speed."""
        return {
            "windows": [self._window_json(window) for window in self.windows],
            "trainings": [_dump_event(event) for event in self.events],
            "alarms": [_dump_alarm(alarm) for alarm in self.alarms],
            **({} if self.drift is None else {"drift": self._drift_json(self.drift)}),
        }

    def _drift_json(self, drift: Sequence[WindowDrift]) -> dict[str, Any]:
        columns = {column.name: {"windows": column.windows, "first": column.first} for column in self.drifted_columns}
        return {"windows": len(drift), "evaluated": self.evaluated_windows, "alarms": len(self.drift_alarms), "columns": columns}

    def _window_json(self, window: WindowResult) -> dict[str, Any]:
        inside = [
            event for event in self.events if window.start < event.time <= window.end or event.time == window.start == self.windows[0].start
        ]
        return {
            "window": window.window,
            "start": window.start.isoformat(),
            "end": window.end.isoformat(),
            "rows": window.rows,
            **{name: value if math.isfinite(value) else None for name, value in window.metrics.items()},
            "version": window.versions[-1] if window.versions else None,
            "trained": len(inside),
            "promoted": sum(event.promoted is not None for event in inside),
        }


def _dump_alarm(alarm: ReplayAlarm) -> dict[str, Any]:
    columns = {"columns": list(alarm.columns)} if alarm.kind == DRIFT else {}
    return {"window": alarm.window, "version": alarm.version, "kind": alarm.kind, "reason": alarm.reason, **columns}


def _dump_event(event: ReplayEvent) -> dict[str, Any]:
    return {
        "time": event.time.isoformat(),
        "reason": event.reason,
        "promoted": event.promoted,
        "outcome": event.outcome,
        "rows": event.rows,
        "trained on": event.span,
    }


@dataclass(frozen=True)
class PolicyComparison:
    """The difference between the metrics of two policies, averaged over windows.

    Parameters
    ----------
    policy, other
        The names of both policies.
    difference
        The mean of ``policy`` minus ``other`` over the windows in which both are defined.
    low, high
        The 95 % confidence interval of the difference; NaN with too few windows.
    windows
        The number of these windows.
    """

    policy: str
    other: str
    difference: float
    low: float
    high: float
    windows: int

    @property
    def significant(self) -> bool:
        """Whether one policy is significantly better: the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay.

    Parameters
    ----------
    model, metric
        The model, and the metric by which policies are compared.
    start, end
        The replayed period (aware).
    by
        The unit of a window: ``day``, ``week``, ``month``.
    policies
        In the order in which they were requested.
    comparisons
        Each pair of policies once.
    notes
        The differences between the replay and production, in sentences.
    declarations
        Policy → the Python source that declares it, for those that a project can declare.
    """

    model: str
    metric: str
    start: datetime
    end: datetime
    by: str
    policies: tuple[PolicyResult, ...]
    comparisons: tuple[PolicyComparison, ...]
    notes: Sequence[str] = ()
    declarations: Mapping[str, str] = field(default_factory=dict)

    def compare(self, policy: str, other: str) -> PolicyComparison | None:
        """Return the comparison of a policy with another one, in this order; None for a policy with itself."""
        for found in self.comparisons:
            if (found.policy, found.other) == (policy, other):
                return found
            if (found.policy, found.other) == (other, policy):
                return PolicyComparison(policy, other, -found.difference, -found.high, -found.low, found.windows)
        return None

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values: equal for equal data, code and policies."""
        return {
            "model": self.model,
            "metric": self.metric,
            "from": self.start.isoformat(),
            "to": self.end.isoformat(),
            "by": self.by,
            "policies": {policy.policy: policy.as_json() for policy in self.policies},
            "comparisons": [
                {
                    "policy": c.policy,
                    "other": c.other,
                    "difference": _replace_non_finite(c.difference),
                    "low": _replace_non_finite(c.low),
                    "high": _replace_non_finite(c.high),
                }
                for c in self.comparisons
            ],
            "notes": list(self.notes),
        }


def _replace_non_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
