"""Judge the candidates of a replay by the gates of the model, on the rows that none of the compared fits was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.compute.training.gates import judge
from mlops_assets.compute.training.responses import find_unusable_predictions
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.replay.history import takes_validation
from mlops_assets.orchestrate.training.evaluation import build_intervals, evaluate_holdout
from mlops_assets.values.evaluation import Candidate
from mlops_assets.values.gates.cost_gates import ArtifactSizeGate, LatencyGate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.orchestrate.replay.fits import Fit
    from mlops_assets.orchestrate.replay.simulation import ReplayedVersion, ReplayPlan
    from mlops_assets.values.evaluation import Split
    from mlops_assets.values.gates.gate import GateLike

_COST_GATES = (ArtifactSizeGate, LatencyGate)


@dataclass(frozen=True, eq=False)
class Judged:
    """A candidate with the results of its gates.

    Parameters
    ----------
    fit, serving
        The fit that was judged, and the one that would serve.
    passed
        Whether every gate passed.
    outcome
        The results of the gates in words, or the error of the training.
    metrics
        Metric → value on the holdout.
    """

    fit: Fit
    serving: Fit
    passed: bool
    outcome: str
    metrics: dict[str, float] = field(default_factory=dict)


def select_gates(gates: Sequence[GateLike]) -> tuple[tuple[GateLike, ...], list[str]]:
    """Return the gates that can be replayed, and the names of the others, which depend on the machine.

    Raises
    ------
    DefinitionError
        A gate function asks for a Dagster resource.
    """
    for gate in gates:
        if resources := _list_resources(gate):
            raise DefinitionError(
                f"the gate '{gate.name}' asks for the resource '{resources[0]}', which a replay does not have",
                hint="judge by what the candidate holds",
            )
    return tuple(g for g in gates if not isinstance(g, _COST_GATES)), [g.name for g in gates if isinstance(g, _COST_GATES)]


def _list_resources(gate: GateLike) -> list[str]:
    from mlops_assets.compute.training.gates import FunctionGate
    from mlops_assets.values.function import Injection

    return [p.name for p in gate.declared.function.parameters_for(Injection.RESOURCE)] if isinstance(gate, FunctionGate) else []


def judge_fits(plan: ReplayPlan, fits: Sequence[Fit], champion: ReplayedVersion | None) -> Judged:
    """Judge the best of some fits, by the model's first metric on the holdout.

    Parameters
    ----------
    plan
        The model, its gates and rows.
    fits
        FitCache of one time, with different training rows and the same holdout.
    champion
        The version that serves; None when none does.
    """
    usable = [fit for fit in fits if not fit.error]
    if not usable:
        return Judged(fits[0], fits[0], passed=False, outcome=f"the training failed: {fits[0].error}")
    candidates = [_evaluate(plan, fit) for fit in usable]
    defined = [c for c in candidates if isinstance(c[1], Candidate)]
    if not defined:
        return Judged(usable[0], usable[0], passed=False, outcome=str(candidates[0][1]))
    metric = plan.model.metrics[0]
    fit, candidate, splits = max(defined, key=lambda c: _or_worst(c[1].evaluation.metric(metric)))  # type: ignore[union-attr]
    assert isinstance(candidate, Candidate)  # noqa: S101  (for the type checker)
    compared = _compare(plan, fit, candidate, splits, champion)
    results = {gate.name: judge(gate, compared) for gate in plan.gates}
    failed = [f"{name}: {result.reason}" for name, result in results.items() if not result.passed]
    outcome = "; ".join(failed or [f"{name}: {result.reason}" for name, result in results.items()]) or "the model has no gates"
    return Judged(fit, fit, not failed, outcome, dict(candidate.evaluation.metrics))


def _or_worst(value: float) -> float:
    return value if value == value else float("-inf")  # noqa: PLR0124  (NaN)


def _evaluate(plan: ReplayPlan, fit: Fit) -> tuple[Fit, Candidate | str, Mapping[str, Split]]:
    """Return a fit with its evaluation on the holdout, or with the reason why it cannot be evaluated, and the parts of its training set."""
    model = plan.model
    splits = plan.history.split(fit.request.as_of, fit.request.window, fit.request.rows, validation=takes_validation(model))
    holdout, predictor = splits["holdout"], fit.predict_split(splits["holdout"])
    if problem := find_unusable_predictions(predictor.scores, len(holdout.y)):
        return fit, f"the candidate {problem} of the holdout", splits
    evaluation = evaluate_holdout(model, predictor, splits, model.positive)
    return fit, Candidate(model.name, fit.id, fit.estimator, holdout, evaluation), splits


def _compare(plan: ReplayPlan, fit: Fit, candidate: Candidate, splits: Mapping[str, Split], champion: ReplayedVersion | None) -> Candidate:
    """Return the candidate with the champion's evaluation on the same rows, and with intervals."""
    model, holdout = plan.model, candidate.holdout
    rival = None if champion is None else select_rival(plan, champion, holdout)
    predictor, rival_predictor = fit.predict_split(holdout), None if rival is None else rival.predict_split(holdout)
    evaluation = None if rival_predictor is None else evaluate_holdout(model, rival_predictor, splits, model.positive)
    intervals = build_intervals(model.training_set, predictor, rival_predictor, holdout, fit.id, model.positive)
    return Candidate(candidate.model, candidate.digest, fit.estimator, holdout, candidate.evaluation, evaluation, intervals)


def select_rival(plan: ReplayPlan, champion: ReplayedVersion, holdout: Split) -> Fit:
    """Return the champion's fit that serves if none of the holdout's rows trained it, else its judged fit."""
    first = holdout.rows[plan.model.training_set.event_timestamp or ""].min()
    return champion.serving if first is not None and first >= champion.serving.request.as_of else champion.judged  # type: ignore[operator]
