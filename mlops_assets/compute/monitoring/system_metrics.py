"""System metrics of a service in a window, and its objectives: quantiles of durations, rates, and error budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.compute.text import format_number
from mlops_assets.values.expectations.objectives import ErrorRate, Latency
from mlops_assets.values.monitoring import BREACH, GOOD, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlops_assets.values.expectations.objectives import Objective


@dataclass(frozen=True)
class SystemCounts:
    """The requests of one version, or of all, in a span of time.

    Parameters
    ----------
    codes
        Status → requests.
    seconds
        Duration in seconds → answered requests.
    rows, looked_up, missing
        The numbers of answered rows, of looked-up feature values, and of missing feature values.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    seconds: Mapping[float, int] = field(default_factory=dict)
    rows: int = 0
    looked_up: int = 0
    missing: int = 0

    @classmethod
    def merge(cls, parts: Iterable[SystemCounts]) -> SystemCounts:
        """Return the sum of several counts."""
        codes: dict[int, int] = {}
        seconds: dict[float, int] = {}
        rows = looked_up = missing = 0
        for part in parts:
            for code, number in part.codes.items():
                codes[code] = codes.get(code, 0) + number
            for duration, number in part.seconds.items():
                seconds[duration] = seconds.get(duration, 0) + number
            rows, looked_up, missing = rows + part.rows, looked_up + part.looked_up, missing + part.missing
        return cls(codes, seconds, rows, looked_up, missing)

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(self.codes.values())

    @property
    def answered(self) -> int:
        """Answered requests, whose durations were measured."""
        return sum(self.seconds.values())

    @property
    def errors(self) -> int:
        """Server errors: requests with a status of 500 or more."""
        return sum(number for code, number in self.codes.items() if code >= 500)

    @property
    def client_errors(self) -> int:
        """Client errors: requests with a status of 400 to 499."""
        return sum(number for code, number in self.codes.items() if 400 <= code < 500)

    def quantile(self, share: float) -> float | None:
        """Return a quantile of the durations, in seconds; None without an answered request."""
        total, seen = self.answered, 0
        for duration in sorted(self.seconds):
            seen += self.seconds[duration]
            if seen >= share * total:
                return duration
        return None

    @property
    def missing_rate(self) -> float | None:
        """The share of looked-up values that were missing; None when nothing was looked up."""
        return self.missing / self.looked_up if self.looked_up else None


@dataclass(frozen=True)
class ObjectiveVerdict:
    """The result of one service-level objective in one window.

    Parameters
    ----------
    name
        The name of the check.
    state
        ``good``, ``breach`` or ``not enough data``.
    value, bound
        The value in the window, and its bound.
    budget_used
        The used share of the period's error budget; 1 when the budget is exhausted. None without requests in the period.
    seconds_left
        The time until the budget is exhausted at the rate of this window; None when the window uses no budget.
    reason
        The result in words.
    """

    name: str
    state: str
    value: float | None
    bound: float
    budget_used: float | None
    seconds_left: float | None
    reason: str


@dataclass(frozen=True)
class SystemReport:
    """The system metrics of a window.

    Parameters
    ----------
    seconds
        The length of the window.
    whole
        All requests.
    versions
        The requests by version; the version is None for requests while no model was loaded.
    verdicts
        The verdicts on the objectives, over all requests.
    """

    seconds: float
    whole: SystemCounts
    versions: tuple[tuple[int | None, SystemCounts], ...]
    verdicts: tuple[ObjectiveVerdict, ...]


def evaluate_objective(objective: Objective, window: SystemCounts, period: SystemCounts) -> ObjectiveVerdict:
    """Evaluate an objective in a window, with the error budget of the period that ends with the window.

    Parameters
    ----------
    objective
        The objective.
    window, period
        The requests of the window, and of the period with the window.
    """
    bad, total = _count_bad(objective, window)
    value = _measure(objective, window)
    spent, of = _count_bad(objective, period)
    budget_used = spent / (objective.allowed * of) if of else None
    evaluated, of_period = (counts.requests if isinstance(objective, ErrorRate) else counts.answered for counts in (window, period))
    # At low traffic no window has enough requests: then the period decides.
    is_exhausted = budget_used is not None and budget_used >= 1 and of_period >= objective.min_requests
    if value is None or (evaluated < objective.min_requests and not (is_exhausted and value > objective.bound)):
        kind = "requests" if isinstance(objective, ErrorRate) else "answered requests"
        reason = f"{evaluated} {kind}, fewer than {objective.min_requests}" if value is not None else "nothing to measure"
        return ObjectiveVerdict(objective.name, NOT_ENOUGH, value, objective.bound, budget_used, None, reason)
    rate = bad / (objective.allowed * total)  # 1 uses up the budget in exactly one period
    left = None if budget_used is None or not rate else max(0.0, 1 - budget_used) / rate * objective.period.total_seconds()
    state = GOOD if value <= objective.bound else BREACH
    sign = "≤" if state == GOOD else ">"
    reason = f"{objective.name} {format_number(value)} {sign} {format_number(objective.bound)}; {_describe_budget(budget_used, left)}"
    return ObjectiveVerdict(objective.name, state, value, objective.bound, budget_used, left, reason)


def _measure(objective: Objective, counts: SystemCounts) -> float | None:
    if isinstance(objective, Latency):
        return counts.quantile(objective.quantile)
    bad, total = _count_bad(objective, counts)
    return bad / total if total else None


def _count_bad(objective: Objective, counts: SystemCounts) -> tuple[int, int]:
    """Return the number of bad requests or values, and the number of all."""
    if isinstance(objective, Latency):
        slow = sum(number for duration, number in counts.seconds.items() if duration > objective.bound)
        return slow, counts.answered
    return (counts.errors, counts.requests) if isinstance(objective, ErrorRate) else (counts.missing, counts.looked_up)


def _describe_budget(budget_used: float | None, seconds_left: float | None) -> str:
    if budget_used is None:
        return "no budget is used up"
    if budget_used >= 1:
        return f"the error budget is exhausted: {budget_used:.0%} used up"
    if seconds_left is None or not math.isfinite(seconds_left):
        return f"{budget_used:.0%} of the error budget is used up"
    return f"{budget_used:.0%} of the error budget is used up; at this rate it lasts {_describe_duration(seconds_left)}"


def _describe_duration(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days" if seconds >= 86_400 else f"{seconds / 3_600:.1f} hours"
