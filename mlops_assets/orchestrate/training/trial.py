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
    """Ends a trial that falls behind; raised from ``ml.runs.log_metric`` within the model's function."""


@dataclass(frozen=True, eq=False)
class SearchContext:
    """The parts that all trials of a search share.

    Parameters
    ----------
    search, metric
        As declared, and the metric to maximise.
    parent
        The run of the training.
    fingerprint
        Identifies the training; a resumed search finds trials by it.
    splits
        Of the training set, by part.
    positive
        The positive class, where one is declared.
    """

    search: Search
    metric: str
    parent: Run
    fingerprint: str
    splits: Mapping[str, Split]
    positive: Any = None


def run_trial(at: SearchContext, stores: Stores, trial: Trial, before: Sequence[Trial], train: Callable[[Mapping[str, Any]], Any]) -> Trial:
    """Run a trial, record it, and return it with its value.

    Parameters
    ----------
    at, stores
        The search, and where runs are recorded.
    trial
        Number and values.
    before
        Earlier trials, for pruning.
    train
        Hyperparameters → the estimator that the model's function returns.
    """
    steps, value, error = dict[int, float](), None, ""

    def watch(name: str, logged: float, step: int | None) -> None:
        if name == at.metric and step is not None:
            steps[step] = logged
            if at.search.prune and should_prune(step, logged, before):
                raise PrunedError

    with record_run(_build_run(at, trial), stores.tracker, stores.artifacts) as active:
        active.watch = watch
        try:
            with seed_globals(at.fingerprint):
                estimator = train(trial.params)
            value = _score_trial(at, estimator)
        except PrunedError:
            active.end_as(PRUNED)
        except Exception as raised:  # noqa: BLE001  (values that the function cannot take: the search continues)
            error = f"{type(raised).__name__}: {shorten(str(raised))}"
            active.end_as("failed", error)
        facts = {"number": trial.number, "params": dict(trial.params), "value": value, "steps": sorted(steps.items())}
        active.close(metrics={} if value is None else {f"validation/{at.metric}": value}, record={"trial": facts})
    return replace(trial, value=value, steps=steps, error=error)


def _build_run(at: SearchContext, trial: Trial) -> Run:
    return replace(
        at.parent,
        id=uuid.uuid4().hex,
        started_at=datetime.now(UTC),
        params={**at.parent.params, **json.loads(json.dumps(dict(trial.params), default=str))},
        record={},
        kind="trial",
        name=f"trial {trial.number}",
        parent_id=at.parent.id,
        tags={"trial": str(trial.number)},
    )


def _score_trial(at: SearchContext, estimator: Any) -> float:  # noqa: ANN401
    found = evaluate(estimator, at.splits["validation"], (at.metric,), positive=at.positive, part="validation")
    if found.problems:
        raise DataError(f"{at.metric} is undefined on the validation part: {found.problems[0][1]}", hint="see its rows and labels")
    return found.metric(at.metric)
