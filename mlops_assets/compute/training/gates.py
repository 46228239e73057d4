"""Judge candidates so that a gate passes only on evidence: an exception, an invalid result or an undefined value does not pass."""

from __future__ import annotations

import hashlib
import inspect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.compute.user_code.user_errors import describe_error
from mlops_assets.values.evaluation import GateResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.evaluation import Candidate
    from mlops_assets.values.gates.gate import GateLike
    from mlops_assets.values.model import GateFunction


def judge(gate: GateLike, candidate: Candidate) -> GateResult:
    """Judge a candidate by a gate of any kind.

    Parameters
    ----------
    gate
        The gate.
    candidate
        The candidate, with the champion's evaluation on the same rows when there is a champion.

    Returns
    -------
    GateResult
        Not passed when the gate raises, returns no :class:`GateResult`, or returns a value that is not finite.
    """
    try:
        result = gate.judge(candidate)
    except Exception as error:  # noqa: BLE001  (an exception of any type means not passed)
        function = gate.declared.function.function if isinstance(gate, FunctionGate) else None
        return GateResult(passed=False, reason=f"the gate raised {describe_error(error, function)}")
    if not isinstance(result, GateResult):
        return GateResult(passed=False, reason=f"the gate returned {type(result).__name__}, neither a GateResult nor a bool")
    if result.value is not None and not math.isfinite(result.value):
        return GateResult(passed=False, reason=f"the gate's value is {result.value}")
    return result


@dataclass(frozen=True)
class FunctionGate:
    """A user's ``@ml.gate`` function as a gate.

    Parameters
    ----------
    declared
        The decorated function.
    resources
        Dagster resources that the function requires, by parameter name.
    """

    declared: GateFunction[..., object]
    resources: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.declared.name

    @property
    def definition(self) -> str:
        """The SHA-256 of the function's source; evidence from a gate with another hash does not count."""
        return hashlib.sha256(inspect.getsource(self.declared.function.function).encode()).hexdigest()

    @property
    def text(self) -> str:
        """The function's docstring."""
        return self.declared.function.description

    @property
    def relative(self) -> bool:
        """True, because a function may compare the candidate with the champion."""
        return True

    def judge(self, candidate: Candidate) -> GateResult:
        """Call the function with its resources, and the candidate for every other parameter; a bool becomes a :class:`GateResult`."""
        answer = self.declared(**{p.name: self.resources.get(p.name, candidate) for p in self.declared.function.parameters})
        # Comparisons of metrics give numpy's bool; other truthy values are refused.
        if type(answer).__name__ in ("bool", "bool_"):
            return GateResult(passed=bool(answer), reason="holds" if answer else "does not hold")
        return answer  # type: ignore[return-value]  # the function `judge` above refuses anything else
