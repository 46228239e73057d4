"""The protocol of gates, and :class:`Gate`, a bound on one metric of the holdout."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_arguments, check_constructor
from mlops_assets.values.evaluation import GateResult
from mlops_assets.values.gates.cost_gates import ArtifactSizeGate, LatencyGate
from mlops_assets.values.gates.rule import OneRule

if TYPE_CHECKING:
    from mlops_assets.values.evaluation import Candidate, Evaluation

Slice = tuple[str, str]
DEFAULT_CONFIDENCE = 0.95
GATE_MEMBERS = ("name", "definition", "text", "relative", "judge")
_UNKNOWN = (math.nan, math.nan)


class GateLike(Protocol):
    """The protocol of gates: any object with these members can stand in ``gates=``.

    Notes
    -----
    Two further attributes are optional, and False if they are missing:

    ``repeatable``
        Whether equal candidates get equal results. A step that only repeats the last one then reuses the result.
    ``needs_costs``
        Whether the gate reads ``candidate.costs``. A replay leaves it out, because it stores no artifacts; a prompt evaluation refuses it.

    See Also
    --------
    mlops_assets.Gate : The gate on a metric.
    ArtifactSizeGate : A gate on a size.
    """

    @property
    def name(self) -> str:
        """The name of the asset check, unique among the gates of a model."""
        ...

    @property
    def definition(self) -> str:
        """A hash of everything that the gate requires: evidence for another definition does not count."""
        ...

    @property
    def text(self) -> str:
        """The requirement in one sentence, as the UI shows it."""
        ...

    @property
    def relative(self) -> bool:
        """Whether the gate compares with the champion: a result counts only while the same champion serves, and the champion itself passes."""
        ...

    def judge(self, candidate: Candidate) -> GateResult:
        """Judge a candidate; an exception means not passed."""
        ...


def is_repeatable(gate: GateLike) -> bool:
    """Return whether equal candidates get equal results from a gate."""
    return bool(getattr(gate, "repeatable", False))


def needs_costs(gate: GateLike) -> bool:
    """Return whether a gate reads the costs of a candidate."""
    return bool(getattr(gate, "needs_costs", False))


@check_constructor
@dataclass(frozen=True)
class Gate(OneRule):
    """A bound on one metric of the holdout, absolute or relative to the champion.

    Parameters
    ----------
    metric
        A scikit-learn scorer name; greater is better. For a prompt, a scorer of its evaluation, or for example ``error_rate``,
        ``p95_seconds`` or ``cost_per_request``.
    at_least
        The minimum that passes.
    at_most
        The maximum that passes.
    no_worse_than_champion_by
        How far the metric may be below the champion's on the same rows.
    better_than_champion_by
        The minimum by which the metric must be above the champion's on the same rows.
    slice
        ``(column, value)``: only the rows with this value are judged. ``column``: the rows of each value are judged separately, and all
        must pass.
    confidence
        The confidence level of an interval around the metric, or around its difference from the champion. If given, the lower end of the
        interval is judged; with ``at_most``, its upper end. If None, the metric or the difference itself is judged.
    min_rows
        The minimum number of holdout rows of a value when ``slice`` is a column; values with fewer rows are not judged.

    Raises
    ------
    DefinitionError
        Not exactly one rule is given, its bound is not finite, the confidence is not between 0 and 1, or ``min_rows`` is less than 1.

    See Also
    --------
    Gate.artifact_size : Limit the size of what a version stores.
    Gate.latency : Limit the time of one prediction.
    gate : Write a gate of your own.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Gate("roc_auc", at_least=0.65).name
    'roc_auc_at_least'
    """

    RULES: ClassVar = ("at_least", "at_most", "no_worse_than_champion_by", "better_than_champion_by")
    repeatable: ClassVar[bool] = True

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    no_worse_than_champion_by: float | None = None
    better_than_champion_by: float | None = None
    slice: tuple[str, str] | str | None = None
    confidence: float | None = None
    min_rows: int = 100

    def __post_init__(self) -> None:
        """Require exactly one finite rule, a confidence between 0 and 1, and a positive ``min_rows``."""
        what = f"a gate on '{self.metric}'"
        self._check_rule(what)
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise DefinitionError(f"confidence of {what} must be between 0 and 1, not {self.confidence}", hint="give a number such as 0.95")
        if self.min_rows < 1:
            raise DefinitionError(f"min_rows of {what} must be at least 1, not {self.min_rows}", hint="a slice without rows has no metric")

    @staticmethod
    @check_arguments
    def artifact_size(max_bytes: int) -> ArtifactSizeGate:
        """Return a gate on the size of everything that the version stores: estimator, probe rows, feature code, profile, manifest.

        Parameters
        ----------
        max_bytes
            The maximum that passes.

        Returns
        -------
        ArtifactSizeGate
            For ``gates=`` of :func:`mlops_assets.model`.

        Examples
        --------
        >>> import mlops_assets as ml
        >>> ml.Gate.artifact_size(max_bytes=50_000_000).name
        'artifact_size_at_most'
        """
        return ArtifactSizeGate(max_bytes)

    @staticmethod
    @check_arguments
    def latency(p95_ms: float, calls: int = 300) -> LatencyGate:
        """Return a gate on the 95th percentile of the duration of single-row predictions by the predictor that would serve.

        The durations are measured on holdout rows, on the machine that trains, after some calls to warm up. They include neither HTTP nor
        the lookup of features.

        Parameters
        ----------
        p95_ms
            The maximum that passes, in milliseconds.
        calls
            How many single-row predictions are measured.

        Returns
        -------
        LatencyGate
            For ``gates=`` of :func:`mlops_assets.model`.

        Examples
        --------
        >>> import mlops_assets as ml
        >>> ml.Gate.latency(p95_ms=5).text
        'p95 of 300 single-row predictions at most 5 ms'
        """
        return LatencyGate(p95_ms, calls)

    @property
    def relative(self) -> bool:
        """Whether the gate compares with the champion."""
        return self.rule not in ("at_least", "at_most")

    @property
    def is_maximum(self) -> bool:
        """Whether the bound is a maximum."""
        return self.rule == "at_most"

    @property
    def slice_column(self) -> str:
        """The column of ``slice``; empty when all rows are judged together."""
        return self.slice if isinstance(self.slice, str) else self.slice[0] if self.slice else ""

    @property
    def name(self) -> str:
        """Metric, rule and slice: the name of the asset check.

        Characters that Dagster does not allow become ``_``; six digits of a hash then keep the names of different slices apart.
        """
        within = f"every_{self.slice}" if isinstance(self.slice, str) else "_".join(self.slice or ())
        text = "_".join(filter(None, (self.metric, self.rule.removesuffix("_by"), within.lower())))
        name = re.sub(r"[^A-Za-z0-9_]", "_", text)
        return name if name == text else f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    @property
    def text(self) -> str:
        """The rule in words."""
        confidence = f", at {self.confidence:g} confidence" if self.confidence else ""
        scope = f", for every {self.slice} with {self.min_rows} rows" if isinstance(self.slice, str) else _describe_slice(self.slice)
        return f"{self.metric} {self.rule.replace('_', ' ')} {self.threshold:g}{scope}{confidence}"

    @property
    def definition(self) -> str:
        """A hash of everything the gate requires: evidence for another definition does not count."""
        options = [self.confidence, self.min_rows if isinstance(self.slice, str) else None]
        # A gate without the newer options keeps its earlier hash, so that stored evidence still counts.
        text = json.dumps([self.metric, self.rule, self.threshold, self.slice, *(options if any(options) else [])])
        return hashlib.sha256(text.encode()).hexdigest()

    def judge(self, candidate: Candidate) -> GateResult:
        """Judge a candidate.

        Parameters
        ----------
        candidate
            The candidate, with the champion's evaluation on the same rows when there is a champion.

        Returns
        -------
        GateResult
            Not passed when the metric of the candidate or of the compared champion is undefined. Passed when a relative gate has no champion
            to compare with.

        Examples
        --------
        >>> import numpy as np
        >>> import polars as pl
        >>> import mlops_assets as ml
        >>> rows = pl.DataFrame({"x": [0.0, 1.0]})
        >>> evaluation = ml.types.Evaluation(2, (("roc_auc", 0.7),))
        >>> candidate = ml.Candidate("late", "0f82", None, ml.Split(rows, np.array([0, 1]), rows), evaluation)
        >>> ml.Gate("roc_auc", at_least=0.65).judge(candidate).reason
        'roc_auc 0.7 ≥ 0.65'
        """
        return _judge_every_value(self, self.slice, candidate) if isinstance(self.slice, str) else _judge_rows(self, self.slice, candidate)


def _judge_rows(gate: Gate, within: Slice | None, candidate: Candidate) -> GateResult:
    """Judge the holdout rows of one slice, or all of them when ``within`` is None."""
    value = candidate.evaluation.metric(gate.metric, within)
    if not math.isfinite(value):
        return GateResult(
            passed=False, reason=_explain_undefined(gate, within, candidate.evaluation, "the candidate's"), threshold=gate.threshold
        )
    if not gate.relative:
        return _judge_absolute(gate, within, candidate, value)
    if candidate.champion is None:
        return GateResult(
            passed=True, reason=f"no champion yet to compare with; {gate.metric} is {value:.5g}{_describe_slice(within)}", value=value
        )
    champion_value = candidate.champion.metric(gate.metric, within)
    if not math.isfinite(champion_value):
        return GateResult(passed=False, reason=_explain_undefined(gate, within, candidate.champion, "the champion's"), value=value)
    return _judge_relative(gate, within, candidate, value, champion_value)


def _judge_absolute(gate: Gate, within: Slice | None, candidate: Candidate, value: float) -> GateResult:
    """Judge a metric by itself, or by the end of its interval that is nearer to the bound."""
    if gate.confidence is None:
        passed = value <= gate.threshold if gate.is_maximum else value >= gate.threshold
        sign = ("≤" if passed else ">") if gate.is_maximum else _format_sign(passed)
        return GateResult(passed, f"{gate.metric} {value:.5g} {sign} {gate.threshold:.5g}{_describe_slice(within)}", value, gate.threshold)
    low, high = candidate.intervals.value(gate.metric, gate.confidence, within) if candidate.intervals else _UNKNOWN
    passed = high <= gate.threshold if gate.is_maximum else low >= gate.threshold
    what = f"the {_format_interval(gate.confidence, low, high)}{_format_interval_method(candidate)} of {gate.metric} {value:.5g}{_describe_slice(within)}"
    if gate.is_maximum:
        end = "ends at or below" if passed else _explain_high_end(high)
    else:
        end = "begins at or above" if passed else _explain_low_end(low)
    return GateResult(passed, f"{what} {end} {gate.threshold:.5g}", value, gate.threshold, low, high)


def _judge_relative(gate: Gate, within: Slice | None, candidate: Candidate, value: float, champion_value: float) -> GateResult:
    """Judge a metric against the champion's on the same rows, or by the lower end of the interval of their difference."""
    min_difference = gate.threshold if gate.rule == "better_than_champion_by" else -gate.threshold
    confidence = gate.confidence or DEFAULT_CONFIDENCE
    low, high = candidate.intervals.difference(gate.metric, confidence, within) if candidate.intervals else _UNKNOWN
    compared = f"the champion has {champion_value:.5g} on the same rows{_describe_slice(within)}"
    shown = (
        ""
        if math.isnan(low) and gate.confidence is None
        else f", {_format_interval(confidence, low, high)} of the difference{_format_interval_method(candidate)}"
    )
    if gate.confidence is None:
        passed = value >= champion_value + min_difference
        text = f"{gate.metric} {value:.5g} {_format_sign(passed)} {champion_value + min_difference:.5g}: {compared}{shown}"
    else:
        passed = low >= min_difference
        text = (
            f"{gate.metric} {value:.5g}: {compared}{shown} {'begins at or above' if passed else _explain_low_end(low)} {min_difference:.5g}"
        )
    return GateResult(passed, text, value, champion_value + min_difference, *((low, high) if math.isfinite(low) else (None, None)))


def _judge_every_value(gate: Gate, column: str, candidate: Candidate) -> GateResult:
    """Judge each value of a column with at least ``min_rows`` rows; all must pass.

    The result has the numbers of the worst value: of those that failed, or of all when none failed, the one with the lowest margin.
    """
    slices = [s for s in candidate.evaluation.slices if s.column == column]
    judged = [s for s in slices if s.rows >= gate.min_rows]
    if not judged:
        largest = max((s.rows for s in slices), default=0)
        return GateResult(passed=False, reason=f"no value of {column} has {gate.min_rows} holdout rows: the most frequent has {largest}")
    results = [(s, _judge_rows(gate, (column, s.value), candidate)) for s in judged]
    failed = [(s, result) for s, result in results if not result.passed]
    worst, result = min(failed or results, key=lambda entry: _measure_margin(gate, entry[1]))
    note = f"; {len(slices) - len(judged)} with fewer rows are not judged" if len(slices) > len(judged) else ""
    head = (
        f"fails in {len(failed)} of {len(results)} slices by {column}, worst"
        if failed
        else f"holds in all {len(results)} slices by {column}, lowest"
    )
    return replace(
        result, reason=f"{head} in {column} {worst.value} ({worst.rows} rows): {result.reason}{note} (of at least {gate.min_rows} rows)"
    )


def _measure_margin(gate: Gate, result: GateResult) -> float:
    """Return how far the value of a result is on the passing side of its bound: −∞ without a value, ∞ without a bound."""
    if result.value is None:
        return -math.inf
    if result.threshold is None:
        return math.inf
    return result.threshold - result.value if gate.is_maximum else result.value - result.threshold


def _format_sign(passed: bool) -> str:  # noqa: FBT001
    return "≥" if passed else "<"


def _explain_low_end(low: float) -> str:
    return "is undefined, so that it cannot be shown to begin at or above" if math.isnan(low) else "begins below"


def _explain_high_end(high: float) -> str:
    return "is undefined, so that it cannot be shown to end at or below" if math.isnan(high) else "ends above"


def _format_interval(confidence: float, low: float, high: float) -> str:
    return f"{confidence:.4g} interval" + ("" if math.isnan(low) else f" {low:.4g} … {high:.4g}")


def _format_interval_method(candidate: Candidate) -> str:
    """Return the resampled units of the candidate's intervals in brackets, e.g. " (independent rows)"; empty without intervals."""
    return f" ({candidate.intervals.method})" if candidate.intervals else ""


def _describe_slice(within: Slice | None) -> str:
    return f" where {within[0]} is {within[1]}" if within else ""


def _explain_undefined(gate: Gate, within: Slice | None, evaluation: Evaluation, whose: str) -> str:
    """Return why a metric is undefined: the slice was not measured, or the evaluation's problem with the metric."""
    if within and not any((s.column, s.value) == within for s in evaluation.slices):
        return f"no holdout row has {within[0]} {within[1]}, or slices= does not name that column"
    reason = dict(evaluation.problems).get(gate.metric, "it is not a finite number")
    return f"{whose} {gate.metric} is undefined{_describe_slice(within)}: {reason}"
