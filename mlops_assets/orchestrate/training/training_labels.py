"""Check that each key of a training set has one label: a join that duplicates rows may give a key two labels."""

from typing import Any

import polars as pl

from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.orchestrate.core.project import Project, row_key
from mlops_assets.values.model import Model
from mlops_assets.values.training import TrainingSet

ONE_LABEL = "one_label_per_key"


def check_labels(project: Project, training_set: TrainingSet[..., Any], spine: pl.DataFrame) -> Outcome:
    """Check that no key has two different labels, because monitors look up labels by key.

    The check passes, with the fact ``not judged``, when no key is declared or the rows lack a key column. Rows with a null key are ignored.

    Parameters
    ----------
    project
        The project that declares the training set.
    training_set, spine
        The training set, and the rows that its function returned.
    """
    key = _identity_columns(project, training_set)
    if missing := [name for name in key if name not in spine.columns]:
        return Outcome(ONE_LABEL, passed=True, facts={"not judged": f"the function does not return the key column '{missing[0]}'"})
    if not key:
        return Outcome(ONE_LABEL, passed=True, facts={"not judged": "no dataset that it reads declares a key"})
    rows = spine.select(*key, pl.col(training_set.label).alias("__label")).drop_nulls(key)
    duplicated = rows.filter(pl.struct(key).is_duplicated())
    counts = duplicated.group_by(key, maintain_order=True).agg(
        labels=pl.col("__label").n_unique(), first=pl.col("__label").unique(maintain_order=True).head(3)
    )
    repeated = duplicated.height - counts.height
    facts = {"key": ", ".join(key), "keys": rows.height - repeated, "repeated rows": repeated}
    conflicting = counts.filter(pl.col("labels") > 1)
    if conflicting.is_empty():
        return Outcome(ONE_LABEL, passed=True, facts=facts)
    first = conflicting.row(0, named=True)
    identity = {name: first[name] for name in key}
    return Outcome(
        ONE_LABEL,
        passed=False,
        message=f"{conflicting.height} key(s) have more than one label '{training_set.label}'; the first: {identity} has {' and '.join(map(repr, first['first']))}",
        hint="a join duplicates rows: keep the label that is right, e.g. the latest, before the join; "
        "where a row is identified by more columns, add them to the dataset's key=",
        facts=facts,
    )


def _identity_columns(project: Project, training_set: TrainingSet[..., Any]) -> tuple[str, ...]:
    """Return the columns that identify a row: the key of its labels, and possibly the event time of the training set.

    The event time is added when the dataset that declares the key has another event time or none: a key then has one row per event time.
    """
    keyed = next((dataset.table for dataset in project.datasets_of(training_set) if dataset.table.key), None)
    declared_key = keyed.key if keyed else ()
    key = next(
        (columns for model in project.select(Model) if model.training_set == training_set and (columns := row_key(project, model))),
        declared_key,
    )
    time = training_set.event_timestamp
    snapshots = keyed is not None and key == declared_key and time not in (None, keyed.event_timestamp)
    return (*key, *([time] if snapshots and time and time not in key else []))
