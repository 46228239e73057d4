"""The training windows of a model: candidates that train on all rows or on the newest ones, as the model's retraining declares."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training.candidate_kind import TrainedModel
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.evaluation import Candidate
from mlops_assets.values.function import Injection
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TimeSplit, TrainingSet

TRAIN_FROM = "train_from"  # in a record: the time before which a training leaves rows out, as ISO text


def find_retraining(project: Project, model: Model[..., Any]) -> Retrain | None:
    """Return the retraining that a monitor of a model declares; None without one."""
    return next((m.on_failure for m in project.select(Monitor) if m.model.key == model.key and m.on_failure is not None), None)


def list_train_windows(project: Project, model: Model[..., Any]) -> tuple[timedelta | None, ...]:
    """Return the span of the training rows of each candidate; one None, for every row, unless a retraining declares others."""
    declared = find_retraining(project, model)
    return (None,) if declared is None else declared.train_windows


def is_refitted(project: Project, model: Model[..., Any]) -> bool:
    """Return whether a candidate that passed its gates is fitted again on the rows of the holdout too."""
    declared = find_retraining(project, model)
    return model.refit is not None or (declared is not None and declared.refit)


def find_first_row(rows: pl.DataFrame, training_set: TrainingSet[..., Any], window: timedelta | None) -> str:
    """Return the time from which a training of a window uses rows, as ISO text; empty when it uses every row.

    Parameters
    ----------
    rows
        The rows of the training set.
    training_set
        Its declaration, with a split by time.
    window
        The span of the training rows before the validation part or the holdout; None for every row.
    """
    split, time = training_set.split, training_set.event_timestamp
    if window is None or time is None or not isinstance(split, TimeSplit):
        return ""
    newest, oldest = rows[time].max(), rows[time].min()
    if not isinstance(newest, datetime) or not isinstance(oldest, datetime):
        return ""
    first = newest + timedelta(microseconds=1) - split.holdout - (split.validation or timedelta(0)) - window
    return _to_utc(first).isoformat() if oldest < first else ""


def keep_rows_from(rows: pl.DataFrame, event_timestamp: str | None, first: str) -> pl.DataFrame:
    """Return the rows from a time of :func:`find_first_row` on; all rows when it is empty."""
    if not first or event_timestamp is None:
        return rows
    bound = datetime.fromisoformat(first)
    naive = getattr(rows.schema[event_timestamp], "time_zone", None) is None
    return rows.filter(pl.col(event_timestamp) >= (bound.replace(tzinfo=None) if naive else bound))


def choose_candidate(compared: Sequence[tuple[TrainedModel, Candidate]], metric: str) -> tuple[TrainedModel, Candidate]:
    """Return the candidate with the best metric on the holdout, the first of equal ones; an undefined metric is the worst."""
    values = [candidate.evaluation.metric(metric) for _, candidate in compared]
    return compared[max(range(len(values)), key=lambda i: values[i] if values[i] == values[i] else float("-inf"))]


def check_retraining(project: Project) -> None:
    """Raise DefinitionError for a retraining that its model or training set does not allow, or for two of one model that differ."""
    for monitor in project.select(Monitor):
        policy, model = monitor.on_failure, monitor.model
        if policy is None:
            continue
        where = f"monitor '{monitor.name}'"
        first = find_retraining(project, model)
        if first is not None and (first.train_windows, first.refit) != (policy.train_windows, policy.refit):
            raise DefinitionError(
                f"{where} declares other train_windows= or refit= than another monitor of '{model.key}'", hint="declare both alike"
            )
        if policy.train_windows != (None,) and not isinstance(model.training_set.split, TimeSplit):
            raise DefinitionError(
                f"{where} declares train_windows=, but '{model.training_set.key}' is not split by time",
                hint="declare split=ml.TimeSplit(…)",
            )
        if policy.refit and "validation" in {parameter.name for parameter in model.function.parameters_for(Injection.SPLIT)}:
            raise DefinitionError(
                f"{where} declares refit=True, but '{model.key}' takes `validation: ml.Split`, which the refit would train on",
                hint="tune with search=ml.Search(...), or omit refit=",
            )


def _to_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
