"""Verdicts on the metrics of a window, by a monitor's expectations of performance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.monitoring.labels import LabelArrivals
    from mlops_assets.values.monitoring import Performance


@dataclass(frozen=True)
class WindowMetric:
    """One metric of a window; a figure is None where it is undefined.

    Parameters
    ----------
    name
        A scikit-learn scorer name; greater is better.
    value
        The metric on the rows with a label.
    low, high
        Ends of the metric's confidence interval.
    reference
        The version's value on its holdout; None when it is not known.
    problem
        The reason why the metric is undefined; empty when it is defined.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Verdict:
    """The result of one expectation for a window.

    Parameters
    ----------
    expectation
        The name of the expectation.
    state
        ``good``, ``breach``, ``not enough data``, ``cannot be measured`` or ``in training data``.
    value, bound
        The metric and its minimum.
    reason
        The reason in words.
    """

    expectation: str
    state: str
    value: float | None
    bound: float | None
    reason: str

    @property
    def below(self) -> bool:
        """Whether the metric is below its minimum, significantly or not."""
        return self.value is not None and self.bound is not None and self.value < self.bound


def evaluate_expectations(
    expectations: Sequence[Performance], metrics: Sequence[WindowMetric], arrivals: LabelArrivals, *, inverted: bool, problem: str
) -> tuple[Verdict, ...]:
    """Return the verdict on each expectation.

    Parameters
    ----------
    expectations
        The expectations, in the declared order.
    metrics
        The metrics of the window.
    arrivals
        The number of predictions with a label.
    inverted
        Whether the labels look inverted.
    problem
        The reason why the whole window cannot be measured; empty when it can.
    """
    by_name = {metric.name: metric for metric in metrics}
    return tuple(_evaluate_expectation(e, by_name[e.metric], arrivals, inverted=inverted, problem=problem) for e in expectations)


def _evaluate_expectation(
    expectation: Performance, metric: WindowMetric, arrivals: LabelArrivals, *, inverted: bool, problem: str
) -> Verdict:
    """Return the verdict on one expectation; ``problem`` is why the whole window cannot be measured, empty when it can."""
    bound = _find_bound(expectation, metric)
    if (
        why := problem
        or (metric.problem if metric.problem.startswith(CANNOT) else _explain_too_few(expectation, arrivals))
        or metric.problem
    ):
        state = CANNOT if not problem and metric.problem.startswith(CANNOT) else NOT_ENOUGH
        return Verdict(expectation.name, state, metric.value, bound, why.removeprefix(f"{CANNOT}: "))
    if bound is None or metric.value is None:
        why = f"the version's {metric.name} on its holdout is not known"
        return Verdict(expectation.name, NOT_ENOUGH, metric.value, bound, why)
    below = metric.value < bound
    significant = metric.high is not None and metric.high < bound
    against = (
        f"{bound:.4g}"
        if expectation.at_least is not None
        else f"{bound:.4g} ({metric.reference:.4g} on the holdout − {expectation.threshold:.4g})"
    )
    finding = (
        f"{describe_metric(metric)} {'<' if below else '≥'} {against} on {arrivals.labelled} labelled of {arrivals.predicted} predictions"
    )
    if below and expectation.significant and not significant:
        return Verdict(expectation.name, GOOD, metric.value, bound, f"{finding}, which may be chance: the interval reaches the bound")
    finding += f"; {arrivals.bias}" if arrivals.bias else ""
    if below:
        finding += _describe_suspicion(by_chance=not significant, inverted=inverted)
    return Verdict(expectation.name, BREACH if below else GOOD, metric.value, bound, finding)


def _find_bound(expectation: Performance, metric: WindowMetric) -> float | None:
    """Return the minimum of a metric; None when it is relative to an unknown holdout value."""
    if expectation.at_least is not None:
        return expectation.at_least
    return None if metric.reference is None else metric.reference - expectation.threshold


def _explain_too_few(expectation: Performance, arrivals: LabelArrivals) -> str:
    """Return why too few labels have arrived to evaluate; empty if there are enough."""
    if arrivals.coverage < expectation.min_coverage:
        return (
            f"{arrivals.coverage:.1%} of {arrivals.predicted} predictions {arrivals.predicate}, {expectation.min_coverage:.1%} are needed"
        )
    if arrivals.labelled < expectation.min_labels:
        return f"{arrivals.labelled} predictions {arrivals.predicate}, {expectation.min_labels} are needed"
    return ""


def _describe_suspicion(*, by_chance: bool, inverted: bool) -> str:
    if inverted:
        return "; the labels look inverted: the ROC AUC is below 0.5, which chance does not explain"
    return "; the interval reaches the bound, so it may be chance" if by_chance else ""


def describe_metric(metric: WindowMetric) -> str:
    """Return a metric with its value and interval, or why it is undefined, as text."""
    if metric.value is None:
        return f"{metric.name} undefined ({metric.problem})"
    between = f" ({metric.low:.4g} to {metric.high:.4g})" if metric.low is not None else ""
    return f"{metric.name} {metric.value:.4g}{between}"
