"""Run the gates of the model on the candidates of a replay, on the rows that none of the compared fits was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.compute.training.gates import judge
from mlops_assets.compute.training.responses import find_unusable_predictions
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.training.estimator_package import fit_version_estimator
from mlops_assets.orchestrate.training.evaluation import build_intervals, evaluate_holdout
from mlops_assets.orchestrate.training.gates import list_policy_gates, list_relative
from mlops_assets.orchestrate.training.train_windows import choose_window, needs_validation
from mlops_assets.values.evaluation import Candidate, GateResult
from mlops_assets.values.gates.gate import needs_costs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.estimation.estimator import PerformanceEstimator
    from mlops_assets.compute.training.fitted_rows import FittedRows
    from mlops_assets.compute.training.responses import CachedPredictor
    from mlops_assets.orchestrate.replay.fits import Fit
    from mlops_assets.orchestrate.replay.simulation import ReplayedVersion, ReplayPlan
    from mlops_assets.values.decisions import Retrain
    from mlops_assets.values.evaluation import Split
    from mlops_assets.values.gates.gate import GateLike


@dataclass(frozen=True, eq=False)
class GatedCandidate:
    """A candidate with the results of its gates.

    Parameters
    ----------
    fit, serving
        The fit that the gates tested, and the fit that would serve.
    passed
        Whether every gate passed.
    outcome
        The results of the gates in words, or the error of the training.
    metrics
        Metric → value on the holdout.
    crashed
        Whether the run would have failed before its gates: by an error of the training, or by predictions that cannot be used.
    estimator, estimator_problem
        What the holdout says about the errors of predictions, or why nothing is known; None and empty for a candidate that was not promoted.
    """

    fit: Fit
    serving: Fit
    passed: bool
    outcome: str
    metrics: dict[str, float] = field(default_factory=dict)
    crashed: bool = False
    estimator: PerformanceEstimator | None = None
    estimator_problem: str = ""


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
                hint="use only what the candidate holds",
            )
    return tuple(gate for gate in gates if not needs_costs(gate)), [gate.name for gate in gates if needs_costs(gate)]


def _list_resources(gate: GateLike) -> list[str]:
    from mlops_assets.compute.training.gates import FunctionGate
    from mlops_assets.values.function import Injection

    return [p.name for p in gate.declared.function.parameters_for(Injection.RESOURCE)] if isinstance(gate, FunctionGate) else []


def run_gates(plan: ReplayPlan, policy: Retrain, fits: Sequence[Fit], champion: ReplayedVersion | None) -> GatedCandidate:
    """Choose one of the fits by the training windows' rule, and run the gates of the model and of the policy on it.

    Parameters
    ----------
    plan, policy
        The model, its gates and rows, and the retraining.
    fits
        Fits of one time, one for each training window, with the same holdout.
    champion
        The version that serves; None when none does.
    """
    if failed_fit := next((fit for fit in fits if fit.error), None):
        return GatedCandidate(failed_fit, failed_fit, passed=False, outcome=f"the training failed: {failed_fit.error}", crashed=True)
    model = plan.model
    parts = {fit.request.window: _split(plan, fit) for fit in fits}
    predictors = {fit.request.window: fit.predict_split(parts[fit.request.window]["holdout"]) for fit in fits}
    serving = None if champion is None else champion.gated_fit.request.window
    window = choose_window(model, predictors, parts[fits[0].request.window]["holdout"], serving)
    fit, splits, predictor = next(fit for fit in fits if fit.request.window == window), parts[window], predictors[window]
    if problem := find_unusable_predictions(predictor.scores, len(splits["holdout"].y)):
        return GatedCandidate(fit, fit, passed=False, outcome=f"the candidate {problem} of the holdout", crashed=True)
    candidate = _build_candidate(plan, fit, splits, predictor, champion)
    results = {gate.name: judge(gate, candidate) for gate in gather_replayed_gates(plan, policy)}
    if champion is not None and fit.id == champion.gated_fit.id:
        same = GateResult(passed=True, reason=f"this is the champion, version {champion.number}")
        results |= dict.fromkeys(list_relative(gather_replayed_gates(plan, policy)), same)
    failed = [f"{name}: {result.reason}" for name, result in results.items() if not result.passed]
    outcome = "; ".join(failed or [f"{name}: {result.reason}" for name, result in results.items()]) or "the model has no gates"
    estimated = (None, "") if failed else fit_version_estimator(model, predictor, splits["holdout"])
    return GatedCandidate(fit, fit, not failed, outcome, dict(candidate.evaluation.metrics), False, *estimated)  # noqa: FBT003  (in order)


def gather_replayed_gates(plan: ReplayPlan, policy: Retrain) -> tuple[GateLike, ...]:
    """Return the gates of the model that can be replayed, and the gate of the policy."""
    return (*plan.gates, *list_policy_gates(plan.model, policy))


def _split(plan: ReplayPlan, fit: Fit) -> Mapping[str, Split]:
    request = fit.request
    with_validation = needs_validation(plan.model)
    return plan.history.split(request.as_of, request.window, request.rows, judge_on=request.judge_on, with_validation=with_validation)


def _build_candidate(
    plan: ReplayPlan, fit: Fit, splits: Mapping[str, Split], predictor: CachedPredictor, champion: ReplayedVersion | None
) -> Candidate:
    """Return a candidate with its evaluation, the champion's on the same rows, and intervals."""
    model, holdout = plan.model, splits["holdout"]
    champion_predictor = None if champion is None else select_champion_fit(plan, champion, holdout).predict_split(holdout)
    evaluation = evaluate_holdout(model, predictor, splits, model.positive)
    champion_evaluation = None if champion_predictor is None else evaluate_holdout(model, champion_predictor, splits, model.positive)
    intervals = build_intervals(model.training_set, predictor, champion_predictor, holdout, fit.id, model.positive)
    return Candidate(model.name, fit.id, fit.estimator, holdout, evaluation, champion_evaluation, intervals)


def select_champion_fit(plan: ReplayPlan, champion: ReplayedVersion, holdout: Split) -> Fit:
    """Return the champion's fit that serves if it could be fitted before the holdout began, else the fit that its gates tested."""
    fitted: FittedRows = champion.serving.facts["fitted"]
    times = holdout.rows[plan.model.training_set.event_timestamp or ""]
    return champion.serving if fitted.precede(times) else champion.gated_fit
