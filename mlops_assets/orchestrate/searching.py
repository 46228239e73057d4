"""A search within a training: each trial is a run of its own, a child of the training, found again when the search was killed."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mlops_assets.compute.evaluate import evaluate
from mlops_assets.compute.search import Trial, best, falls_behind, trials
from mlops_assets.compute.seeds import seeded
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.metadata import table
from mlops_assets.orchestrate.scope import Scope
from mlops_assets.stores.active_run import ActiveRun, recorded
from mlops_assets.stores.tracker import Run
from mlops_assets.values.evaluation import Split
from mlops_assets.values.function import Injection
from mlops_assets.values.model import Model

PRUNED = "pruned"
_SHOWN = 10  # trials in the metadata of a materialisation


class PrunedError(Exception):
    """A trial that falls behind ends; raised from ``ml.log_metric`` within the model's function."""


def searched(scope: Scope, model: Model[..., Any], splits: Mapping[str, Split], active: ActiveRun, fingerprint: str) -> Scope:
    """Return the step with the best hyperparameters that its search found; as it is when there is none to search.

    Parameters
    ----------
    scope, model, splits
        Of the training.
    active
        Its run: the best values become its parameters.
    fingerprint
        What decides it: trials that were made under it are not made again.
    """
    if model.search is None:
        return scope
    known = _known(scope, fingerprint)

    def tried(number: int, params: Mapping[str, Any], before: Sequence[Trial]) -> Trial:
        return known.get(number) or _tried(scope, model, splits, active, fingerprint, Trial(number, params), before)

    found = trials(model.search, tried)
    chosen = best(found, f"'{model.key}'")
    active.log_params({**chosen.params, "search/best_trial": chosen.number})
    active.log_metric(f"search/{_metric(model)}", chosen.value)
    earlier = sum(trial.number in known for trial in found)
    reached = f"{_metric(model)} {chosen.value:.5g} on the validation part"
    scope.context.log.info(f"trial {chosen.number} of {len(found)} is the best, {reached}; {earlier} of them were made by an earlier run")
    return scope.with_params(chosen.params)


def search_metadata(scope: Scope, model: Model[..., Any], run: Run) -> dict[str, Any]:
    """Return the best trials of a training as the UI shows them."""
    if model.search is None:
        return {}
    found = scope.places.tracker.search(f"kind = 'trial' and fingerprint = '{run.fingerprint}'", limit=model.search.trials)
    rows = [{"trial": int(r.tags["trial"]), "status": r.status, _metric(model): _value(r, model), **_space(model, r)} for r in found]
    rows.sort(key=lambda row: (row[_metric(model)] is None, -(row[_metric(model)] or 0), row["trial"]))
    shown = [{name: "–" if value is None else value for name, value in row.items()} for row in rows[:_SHOWN]]
    return {"trials": table(shown)} if shown else {}


def _metric(model: Model[..., Any]) -> str:
    return (model.search.metric if model.search else "") or model.metrics[0]


def _value(run: Run, model: Model[..., Any]) -> float | None:
    return run.metrics.get(f"validation/{_metric(model)}")


def _space(model: Model[..., Any], run: Run) -> dict[str, Any]:
    return {name: run.params.get(name) for name, _ in (model.search.space if model.search else ())}


def _known(scope: Scope, fingerprint: str) -> dict[int, Trial]:
    """Return the trials that ended under a fingerprint: with a value, pruned, or failed by their own fault."""
    found = scope.places.tracker.search(f"kind = 'trial' and fingerprint = '{fingerprint}'", limit=100_000)
    stored = [run.record["trial"] for run in found if "trial" in run.record]
    return {t["number"]: Trial(t["number"], t["params"], t["value"], {int(s): v for s, v in t["steps"]}) for t in stored}


def _tried(  # noqa: PLR0913  (what a trial is made of)
    scope: Scope,
    model: Model[..., Any],
    splits: Mapping[str, Split],
    parent: ActiveRun,
    fingerprint: str,
    trial: Trial,
    before: Sequence[Trial],
) -> Trial:
    metric, steps, value = _metric(model), dict[int, float](), None
    run = replace(
        parent.run,
        id=uuid.uuid4().hex,
        started_at=datetime.now(UTC),
        params={**parent.run.params, **json.loads(json.dumps(dict(trial.params), default=str))},
        record={},
        kind="trial",
        name=f"trial {trial.number}",
        parent_id=parent.id,
        tags={"trial": str(trial.number)},
    )

    def watch(name: str, logged: float, step: int | None) -> None:
        if name == metric and step is not None and model.search is not None:
            steps[step] = logged
            if model.search.prune and falls_behind(step, logged, before):
                raise PrunedError

    with recorded(run, scope.places.tracker, scope.places.artifacts) as active:
        active.watch = watch
        try:
            value = _scored(scope.with_params(trial.params), model, splits, fingerprint, metric)
        except PrunedError:
            active.end_as(PRUNED)
        except Exception as error:  # noqa: BLE001  (values that the function cannot take: the search goes on)
            active.end_as("failed", f"{type(error).__name__}: {error}")
            scope.context.log.warning(f"trial {trial.number} failed: {type(error).__name__}: {error}")
        ended = replace(trial, value=value, steps=steps)
        facts = {"number": trial.number, "params": dict(trial.params), "value": value, "steps": sorted(steps.items())}
        active.close(metrics={} if value is None else {f"validation/{metric}": value}, record={"trial": facts})
    return ended


def _scored(scope: Scope, model: Model[..., Any], splits: Mapping[str, Split], fingerprint: str, metric: str) -> float:
    wanted = {p.name: splits[p.name] for p in model.function.receiving(Injection.SPLIT)}
    with seeded(fingerprint):
        estimator = scope.call(model.function, **wanted)
    found = evaluate(estimator, splits["validation"], (metric,))
    if found.problems:
        raise DataError(f"{metric} is undefined on the validation part: {found.problems[0][1]}", hint="see its rows and labels")
    return found.metric(metric)
