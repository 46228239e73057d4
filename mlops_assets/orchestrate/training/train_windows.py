"""The training windows of a model: candidates that train on all rows or on the newest ones, as the model's retraining declares."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.training.split import TRAIN_WINDOW, choose_rows
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training.evaluation import build_intervals
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.evaluation import Split
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TimeSplit

_CONFIDENCE = 0.8  # of a two-sided interval: one of its ends has 90 %


def find_retraining(project: Project, model: Model[..., Any]) -> Retrain | None:
    """Return the retraining that a monitor of a model declares; None without one."""
    return next((m.on_failure for m in project.select(Monitor) if m.model.key == model.key and m.on_failure is not None), None)


def list_train_windows(project: Project, model: Model[..., Any]) -> tuple[timedelta | None, ...]:
    """Return the training window of each candidate: the span of its newest rows, or None for every row, the default."""
    declared = find_retraining(project, model)
    return (None,) if declared is None else declared.train_windows


def needs_refit(project: Project, model: Model[..., Any]) -> bool:
    """Return whether a candidate that passed its gates is refitted on all rows, including the holdout."""
    declared = find_retraining(project, model)
    return model.refit is not None or (declared is not None and declared.refit)


def needs_validation(model: Model[..., Any]) -> bool:
    """Return whether a model needs a validation part: its function asks for one, or it declares a search."""
    return model.search is not None or model.function.takes_validation


def choose_candidate_rows(
    project: Project, model: Model[..., Any], rows: pl.DataFrame, window: timedelta | None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the rows of a candidate with their parts, and facts for its record; see :func:`choose_rows`."""
    declared = find_retraining(project, model)
    judge_on = None if declared is None else declared.judge_on
    parts = {"with_validation": needs_validation(model), "with_refit": needs_refit(project, model)}
    return choose_rows(rows, model.training_set, window=window, judge_on=judge_on, **parts)


def find_serving_window(stores: Stores, champion: Version | None) -> timedelta | None:
    """Return the span of the newest rows that the champion was trained on; None for every row or without a champion."""
    run = None if champion is None else stores.tracker.get(champion.run_id)
    seconds = None if run is None else run.record.get("facts", {}).get("reads", {}).get(TRAIN_WINDOW)
    return None if seconds is None else timedelta(seconds=seconds)


def choose_window(
    model: Model[..., Any], fits: Mapping[timedelta | None, CachedPredictor], holdout: Split, serving: timedelta | None
) -> timedelta | None:
    """Return the training window whose candidate is judged by the gates.

    The first window is the default. Another one must be better on the holdout at 90 % one-sided confidence; the one that trained the
    serving version need only be better. Of several, the best one is chosen.

    Parameters
    ----------
    model
        The model's declaration; candidates are compared by its first metric.
    fits
        Training window → the cached predictions of its candidate for the holdout, in the declared order.
    holdout
        The common holdout.
    serving
        The training window of the serving version; None for every row.
    """
    metric, (default, *others) = model.metrics[0], fits
    better: dict[timedelta | None, float] = {}
    for window in others:
        found = build_intervals(model.training_set, fits[window], fits[default], holdout, f"{window}", model.positive)
        low, high = found.difference(metric, _CONFIDENCE)
        gain = _measure(model, fits[window], holdout) - _measure(model, fits[default], holdout)
        if low > 0 or (gain > 0 and (window == serving or math.isnan(high))):
            better[window] = gain
    return max(better, key=lambda window: better[window], default=default)


def _measure(model: Model[..., Any], predictor: CachedPredictor, holdout: Split) -> float:
    return evaluate(predictor, holdout, model.metrics[:1], positive=model.positive).metric(model.metrics[0])


def check_retraining(project: Project) -> None:
    """Raise DefinitionError for a retraining that its model or training set does not allow, or if two monitors declare different ones for one model."""
    for monitor in project.select(Monitor):
        policy, model = monitor.on_failure, monitor.model
        if policy is None:
            continue
        where = f"monitor '{monitor.name}'"
        first = find_retraining(project, model)
        if first is not None and _list_candidate_settings(first) != _list_candidate_settings(policy):
            raise DefinitionError(
                f"{where} declares other training rows or gates than another monitor of '{model.key}'",
                hint="give both the same on_failure=",
            )
        check_policy(policy, model, where)


def check_policy(policy: Retrain, model: Model[..., Any], where: str) -> None:
    """Raise DefinitionError for a retraining that a model or its training set does not allow; ``where`` names the declaration in messages."""
    if (policy.train_windows != (None,) or policy.judge_on) and not isinstance(model.training_set.split, TimeSplit):
        raise DefinitionError(
            f"{where} declares train_windows= or judge_on=, but '{model.training_set.key}' is not split by time",
            hint="declare split=ml.TimeSplit(…)",
        )
    if policy.refit and model.function.takes_validation:
        raise DefinitionError(
            f"{where} declares refit=True, but '{model.key}' takes `validation: ml.Split`, which the refit would train on",
            hint="tune with search=ml.Search(...), or omit refit=",
        )


def _list_candidate_settings(policy: Retrain) -> tuple[object, ...]:
    """Return the settings of a policy that decide how candidates are trained and judged."""
    return policy.train_windows, policy.refit, policy.judge_on, policy.promote_if
