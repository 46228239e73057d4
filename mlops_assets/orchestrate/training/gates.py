"""Judge a candidate by its gates, and turn the results into evidence and results of asset checks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from mlops_assets.compute.training.gates import FunctionGate, judge
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.training.evaluation import find_compared_fit, find_judged_fit
from mlops_assets.stores.registry.records import Evidence, Version
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.evaluation import Candidate, GateResult
from mlops_assets.values.function import Injection
from mlops_assets.values.gates.champion_gate import ChampionGate
from mlops_assets.values.gates.gate import GateLike
from mlops_assets.values.model import GateFunction, Model

_BY_JUDGED_FIT = " (by the champion's judged fit: its refit may have seen these rows)"


def gather_gates(
    model: Model[..., Any], functions: Iterable[GateFunction[..., Any]], retraining: Retrain | None = None
) -> tuple[GateLike, ...]:
    """Return every gate of a model: those of its declaration, that of its retraining, then those that are functions.

    Parameters
    ----------
    model
        The declaration of the model.
    functions
        The gate functions of the project; those of other models are left out.
    retraining
        The retraining of the model, which may declare a gate; None without one.
    """
    own = (FunctionGate(function) for function in functions if function.model.key == model.key)
    return (*model.gates, *list_policy_gates(model, retraining), *own)


def list_policy_gates(model: Model[..., Any], retraining: Retrain | None) -> tuple[ChampionGate, ...]:
    """Return the gate that a retraining adds by ``promote_if``; empty without one.

    Parameters
    ----------
    model
        The model, by whose first metric the gate compares.
    retraining
        The retraining; None without one.
    """
    return (ChampionGate(model.metrics[0], retraining.promote_if),) if retraining and retraining.promote_if else ()  # type: ignore[arg-type]


def hash_gates(gates: Iterable[GateLike]) -> dict[str, str]:
    """Return gate name → hash of the gate's definition."""
    return {gate.name: gate.definition for gate in gates}


def judge_candidate(
    step: StepContext, gates: Sequence[GateLike], candidate: Candidate, champion: Version | None, event_timestamp: str | None = None
) -> dict[str, GateResult]:
    """Return gate name → result for the candidate; every relative gate passes if the candidate is the champion itself.

    Parameters
    ----------
    step
        The step of the model, with the resources that gate functions ask for.
    gates
        The gates of the model.
    candidate
        The evaluated candidate.
    champion
        The champion to compare with; None if there is none.
    event_timestamp
        The column of the holdout with the event time; None without one.
    """
    results = {gate.name: judge(_bind_resources(gate, step), candidate) for gate in gates}
    if champion is None:
        return results
    if find_judged_fit(step.stores, champion).digest == candidate.digest:
        return results | pass_as_champion(gates, champion)
    if find_compared_fit(step.stores, champion, candidate.holdout, event_timestamp).refitted:
        return results | {name: replace(results[name], reason=results[name].reason + _BY_JUDGED_FIT) for name in list_relative(gates)}
    return results


def pass_as_champion(gates: Iterable[GateLike], champion: Version) -> dict[str, GateResult]:
    """Return relative gate → its result for a candidate that is the champion itself.

    Parameters
    ----------
    gates
        The gates of the model.
    champion
        The champion.
    """
    return dict.fromkeys(list_relative(gates), GateResult(passed=True, reason=f"this is the champion, version {champion.version}"))


def list_relative(gates: Iterable[GateLike]) -> list[str]:
    """Return the names of the gates that only compare with the champion: a function may check more, so it is called for the champion too."""
    return [gate.name for gate in gates if gate.relative and not isinstance(gate, FunctionGate)]


def _bind_resources(gate: GateLike, step: StepContext) -> GateLike:
    """Return a gate function with the Dagster resources that it asks for; any other gate unchanged."""
    if not isinstance(gate, FunctionGate):
        return gate
    parameters = gate.declared.function.parameters_for(Injection.RESOURCE)
    return replace(gate, resources={p.name: getattr(step.context.resources, p.name) for p in parameters})


def bind_evidence(results: Mapping[str, GateResult], gates: Sequence[GateLike], digest: str, champion: Version | None) -> list[Evidence]:
    """Return the results as evidence for a candidate; evidence of a relative gate is valid only against the same champion.

    Parameters
    ----------
    results
        The results of :func:`judge_candidate`.
    gates
        The gates of the model.
    digest
        The digest of the candidate.
    champion
        The champion that the candidate was compared with; None if there was none.
    """
    champion_digest = champion.digest if champion else ""
    return [
        Evidence(
            gate.name,
            gate.definition,
            digest,
            result.passed,
            gate.relative,
            champion_digest if gate.relative else "",
            result.value,
            result.threshold,
            result.reason,
            result.low,
            result.high,
        )
        for gate in gates
        for result in (results[gate.name],)
    ]


def to_gate_check_result(model: Model[..., Any], name: str, result: GateResult) -> dg.AssetCheckResult:
    """Return the result of a gate as the result of its asset check."""
    figures = {"value": result.value, "threshold": result.threshold, "interval, low": result.low, "interval, high": result.high}
    return dg.AssetCheckResult(
        passed=result.passed,
        asset_key=asset_key(model.key),
        check_name=name,
        description=result.reason,
        metadata={k: float(v) for k, v in figures.items() if v is not None and math.isfinite(v)},
    )
