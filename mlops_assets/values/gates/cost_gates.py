"""Gates on what a candidate costs: the size of what a version stores, and the time of one prediction."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.evaluation import GateResult

if TYPE_CHECKING:
    from mlops_assets.values.evaluation import Candidate

_NOT_MEASURED = "this kind of candidate measures no {}"


@check_constructor
@dataclass(frozen=True)
class ArtifactSizeGate:
    """A maximum for the size of everything that a version stores. Made by :meth:`mlops_assets.Gate.artifact_size`.

    Parameters
    ----------
    max_bytes
        The maximum that passes.

    Raises
    ------
    DefinitionError
        The maximum is less than 1.

    See Also
    --------
    LatencyGate : Limits the time of one prediction.
    mlops_assets.Gate : Makes it with ``Gate.artifact_size(...)``.
    """

    max_bytes: int
    name: ClassVar[str] = "artifact_size_at_most"
    relative: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True
    needs_costs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a maximum that nothing can meet."""
        if self.max_bytes < 1:
            raise DefinitionError(
                f"max_bytes of a gate on the artifact size must be at least 1, not {self.max_bytes}", hint="give a number of bytes"
            )

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"size of the stored artifacts at most {self.max_bytes:,} bytes"

    @property
    def definition(self) -> str:
        """A hash of everything the gate requires."""
        return _hash(self.name, self.max_bytes)

    def judge(self, candidate: Candidate) -> GateResult:
        """Judge a candidate by the number of bytes that a version of it stores; a candidate without costs does not pass."""
        if candidate.costs is None:
            return GateResult(passed=False, reason=_NOT_MEASURED.format("artifact size"), threshold=self.max_bytes)
        size = candidate.costs.artifact_bytes()
        return _judge_maximum(size, self.max_bytes, f"the artifacts have {size:,.0f} bytes", f"{self.max_bytes:,} bytes")


@check_constructor
@dataclass(frozen=True)
class LatencyGate:
    """A maximum for the 95th percentile of the durations of single-row predictions. Made by :meth:`mlops_assets.Gate.latency`.

    Parameters
    ----------
    p95_ms
        The maximum that passes, in milliseconds.
    calls
        How many single-row predictions are measured.

    Raises
    ------
    DefinitionError
        The maximum is not positive and finite, or there are fewer than 20 calls.

    See Also
    --------
    ArtifactSizeGate : Limits the size of what a version stores.
    mlops_assets.Gate : Makes it with ``Gate.latency(...)``.
    """

    p95_ms: float
    calls: int = 300
    name: ClassVar[str] = "latency_p95_at_most"
    relative: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True
    needs_costs: ClassVar[bool] = True
    MIN_CALLS: ClassVar[int] = 20  # below, the 95th percentile is the slowest call

    def __post_init__(self) -> None:
        """Refuse a maximum that nothing can meet, and too few calls for a percentile."""
        if not (math.isfinite(self.p95_ms) and self.p95_ms > 0):
            raise DefinitionError(
                f"p95_ms of a gate on the latency must be a positive number, not {self.p95_ms}", hint="give milliseconds, such as 20"
            )
        if self.calls < self.MIN_CALLS:
            raise DefinitionError(
                f"calls of a gate on the latency must be at least {self.MIN_CALLS}, not {self.calls}",
                hint="give more calls: a p95 of fewer is their maximum",
            )

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"p95 of {self.calls} single-row predictions at most {self.p95_ms:g} ms"

    @property
    def definition(self) -> str:
        """A hash of everything the gate requires."""
        return _hash(self.name, self.p95_ms, self.calls)

    def judge(self, candidate: Candidate) -> GateResult:
        """Judge a candidate by the durations of its single-row predictions; a candidate without costs does not pass."""
        if candidate.costs is None:
            return GateResult(passed=False, reason=_NOT_MEASURED.format("latency"), threshold=self.p95_ms)
        times = candidate.costs.time_predictions(self.calls)
        p95 = _percentile(times.seconds, 0.95) * 1000
        what = f"p95 {p95:.3g} ms of {len(times.seconds)} single-row predictions ({times.description})"
        return _judge_maximum(p95, self.p95_ms, what, f"{self.p95_ms:g} ms")


def _judge_maximum(value: float, maximum: float, what: str, bound: str) -> GateResult:
    """Return the result of comparing a number with its maximum; a number that is not finite does not pass."""
    if not math.isfinite(value):
        return GateResult(passed=False, reason=f"{what}: not a finite number", threshold=maximum)
    passed = value <= maximum
    return GateResult(passed, f"{what} {'≤' if passed else '>'} {bound}", float(value), float(maximum))


def _percentile(values: tuple[float, ...], share: float) -> float:
    """Return the nearest-rank percentile; NaN without values, or when a value is not finite."""
    if not values or not all(map(math.isfinite, values)):
        return math.nan
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
