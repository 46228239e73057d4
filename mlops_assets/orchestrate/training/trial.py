"""Run one trial of a search: a child run, scored on the validation part."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.search import Trial, should_prune
from mlops_assets.compute.training.seeds import seed_globals
from mlops_assets.compute.user_code.user_errors import shorten
from mlops_assets.errors import DataError
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.tracker.active_run import record_run
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Split
from mlops_assets.values.search import Search

PRUNED = "pruned"


class PrunedError(Exception):
    """Raised by ``ml.runs.log_metric`` in the model's function to prune a trial that is worse than earlier trials."""


@dataclass(frozen=True, eq=False)
class SearchContext:
    """The parts that all trials of a search share.

    Parameters
    ----------
    search, metric
        The declared search, and the metric to maximise.
    parent
        The run of the training, whose children are the trials.
    fingerprint
        Identifies the training; a resumed search finds trials by it.
    splits
        The parts of the training set, by name.
    positive
        The positive class; None if none is declared.
    """

    search: Search
    metric: str
    parent: Run
    fingerprint: str
    splits: Mapping[str, Split]
    positive: Any = None


def run_trial(
    context: SearchContext, stores: Stores, trial: Trial, before: Sequence[Trial], train: Callable[[Mapping[str, Any]], Any]
) -> Trial:
    """Run a trial, record it as a child run, and return it with its value; the value of a pruned or failed trial is None.

    Parameters
    ----------
    context, stores
        The search, and the stores where runs are recorded.
    trial
        The number and the hyperparameters of the trial.
    before
        Earlier trials, with which pruning compares.
    train
        A function that maps hyperparameters to the estimator of the model's function.
    """
    steps, value, error = dict[int, float](), None, ""

    def prune_on_metric(name: str, logged: float, step: int | None) -> None:
        if name == context.metric and step is not None:
            steps[step] = logged
            if context.search.prune and should_prune(step, logged, before):
                raise PrunedError

    with record_run(_build_run(context, trial), stores.tracker, stores.artifacts) as active:
        active.watch = prune_on_metric
        try:
            with seed_globals(context.fingerprint):
                estimator = train(trial.params)
            value = score_trial(estimator, context.splits, context.metric, context.positive)
        except PrunedError:
            active.end_as(PRUNED)
        except Exception as exception:  # noqa: BLE001  (values that the function cannot take: the search continues)
            error = f"{type(exception).__name__}: {shorten(str(exception))}"
            active.end_as("failed", error)
        facts = {"number": trial.number, "params": dict(trial.params), "value": value, "steps": sorted(steps.items())}
        active.close(metrics={} if value is None else {f"validation/{context.metric}": value}, record={"trial": facts})
    return replace(trial, value=value, steps=steps, error=error)


def _build_run(context: SearchContext, trial: Trial) -> Run:
    """Return the initial record of a trial: a child of the training run."""
    return replace(
        context.parent,
        id=uuid.uuid4().hex,
        started_at=datetime.now(UTC),
        params={**context.parent.params, **json.loads(json.dumps(dict(trial.params), default=str))},
        record={},
        kind="trial",
        name=f"trial {trial.number}",
        parent_id=context.parent.id,
        tags={"trial": str(trial.number)},
    )


def score_trial(estimator: Any, splits: Mapping[str, Split], metric: str, positive: Any) -> float:  # noqa: ANN401
    """Return the metric of an estimator on the validation part; raise DataError if it is undefined there."""
    evaluation = evaluate(estimator, splits["validation"], (metric,), positive=positive, part="validation")
    if evaluation.problems:
        raise DataError(
            f"{metric} is undefined on the validation part: {evaluation.problems[0][1]}",
            hint="look at the validation rows and their labels",
        )
    return evaluation.metric(metric)
