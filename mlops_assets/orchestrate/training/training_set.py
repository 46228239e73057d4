"""The step of a training set: its rows, their features from a point-in-time join, and the split."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.assemble import assemble
from mlops_assets.compute.features.parity import SAMPLE_ROWS, check_row_parity
from mlops_assets.compute.features.request import serving_steps
from mlops_assets.compute.tables.frames import sample_evenly
from mlops_assets.compute.tables.own_columns import SPLIT, TRAINING_SET_COLUMNS, lake_column, rename_to_table
from mlops_assets.compute.tables.verify import Outcome, check_names, verify
from mlops_assets.compute.training.leakage import (
    LaterTime,
    RepeatedColumn,
    StrongColumn,
    find_later_times,
    find_repeated_columns,
    find_strong_columns,
    sample_rows,
)
from mlops_assets.compute.training.split import GAP, SPLIT_NAMES, assign_parts, is_known
from mlops_assets.compute.user_code.pure_functions import describe_pure_function
from mlops_assets.errors import DataError, DefinitionError, MlopsError
from mlops_assets.orchestrate.core.project import Project, TableRef
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.features.discovery import lookup_lineage
from mlops_assets.orchestrate.tables.last_result import MADE_FROM, find_last_result
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.orchestrate.training.estimator_package import training_libraries
from mlops_assets.orchestrate.training.training_labels import ONE_LABEL, check_labels
from mlops_assets.stores.lake.rows import refuse_unstorable
from mlops_assets.values.dataset import Table
from mlops_assets.values.features import FeatureView, select_feature_views, select_on_demand
from mlops_assets.values.function import Injection
from mlops_assets.values.serving import Service
from mlops_assets.values.training import TrainingSet

AS_OF_CONFIG = {
    "as_of": dg.Field(str, is_required=False, description="Use only what was known by this time (ISO 8601; UTC when it names no zone).")
}
NO_LEAKAGE = "no_leakage"
ReadColumns = Callable[[TableRef, Sequence[str]], pl.DataFrame]


def training_set_rules(training_set: TrainingSet[..., Any]) -> Table:
    """Return the rules for the stored rows of a training set: only the event time is checked."""
    time = training_set.event_timestamp
    return Table(event_timestamp=time and lake_column(time, TRAINING_SET_COLUMNS))


def list_training_set_checks(training_set: TrainingSet[..., Any]) -> list[dg.AssetCheckSpec]:
    """Return the Dagster check specs of a training set; the leakage check only warns."""
    return build_check_specs(
        training_set.key, (*check_names(training_set_rules(training_set)), ONE_LABEL, NO_LEAKAGE), warnings=(NO_LEAKAGE,)
    )


def training_set_body(training_set: TrainingSet[..., Any]) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that assembles, checks and publishes a training set."""

    def body(step: StepContext) -> Iterator[object]:
        made_from = _hash_assembly(step, training_set)
        last = find_last_result(step, made_from, list_training_set_checks(training_set)) if made_from else None
        if last is not None and _are_inputs_intact(step, training_set):
            step.context.log.info("nothing that determines the rows has changed: they are not assembled again")
            step.stores.attempts.clear(training_set.key, step.partitions)
            yield last
            return

        def make() -> CheckedTable:
            table = _assemble_training_set(step, training_set)
            return replace(table, metadata={**table.metadata, **({MADE_FROM: made_from} if made_from else {})})

        yield from publish_table(step, training_set_rules(training_set), make)

    return body


def _hash_assembly(step: StepContext, training_set: TrainingSet[..., Any]) -> str:
    """Return a hash of everything that determines the rows of a training set and the outcomes of its checks; empty if it is not known.

    It is known for functions of polars frames that :func:`describe_pure_function` understands, when every input is recorded.
    """
    parameters = training_set.function.parameters
    functions = [training_set.function.function, *(f.function for f in select_on_demand(training_set.features))]
    codes = [describe_pure_function(function) for function in functions]
    inputs = step.partitions[0].inputs
    only_frames = all(p.injection is Injection.TABLE and p.frame.startswith("polars.") for p in parameters)
    if step.plain_inputs or not (only_frames and inputs) or None in codes:
        return ""
    tables = [[d.key, d.table.key, d.table.event_timestamp, sorted(d.table.known_later)] for d in step.project.datasets_of(training_set)]
    views = [[view.key, view.event_timestamp, view.created_timestamp] for view in training_set.features if isinstance(view, FeatureView)]
    facts = [
        inputs,
        codes,
        serving_steps(training_set),
        [training_set.columns, training_set.label, repr(training_set.split), training_set.event_timestamp, training_set.label_known_at],
        [training_set.as_known, training_set.label_copies, repr(training_set.block_length)],
        [tables, views, [[service.key, service.row_key] for service in step.project.select(Service)]],
        [step.config.get("as_of"), training_libraries()],
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _are_inputs_intact(step: StepContext, training_set: TrainingSet[..., Any]) -> bool:
    """Read the tables and layouts of a training set, and return whether they have their recorded hashes."""
    try:
        for parameter in training_set.function.tables:
            step.read(step.project.tables[parameter.name])
        for view in select_feature_views(training_set.features):
            step.load_layout(view, as_known=training_set.as_known)
    except MlopsError:
        return False  # the rows are assembled, which raises the error and records the failed attempt
    return True


def _assemble_training_set(step: StepContext, training_set: TrainingSet[..., Any]) -> CheckedTable:
    """Return the rows of a training set with features and split, the outcomes of its checks, and facts for the UI.

    Rows before a rolling window are dropped. A warning is logged if a join may have duplicated rows.
    """
    as_of = parse_as_of(step.config.get("as_of"))
    spine, frame, names = assemble_rows(step, training_set, as_of)
    for function in select_on_demand(training_set.features):
        sample = sample_evenly(frame.select(function.parameters), SAMPLE_ROWS)
        check_row_parity(function.function, sample, f"'{training_set.key}'")
    frame = frame.with_columns(assign_parts(frame, training_set).alias(SPLIT)).drop_nulls(SPLIT)
    X = (*names, *training_set.columns)
    counts = {f"{part} rows": int((frame[SPLIT] == part).sum()) for part in (*SPLIT_NAMES, GAP)}
    labels = check_labels(step.project, training_set, spine)
    if repeated := labels.facts.get("repeated rows"):
        counts["repeated rows"] = repeated
        step.context.log.warning(
            f"'{training_set.key}' has {repeated} more row(s) than keys ({labels.facts['key']}): a join may have duplicated them"
        )
    facts = {
        **counts,
        "X": ", ".join(X),
        "as of": str(as_of or "now"),
        "reads lake snapshot": step.snapshot,
        **lookup_lineage(training_set),
    }
    stored = rename_to_table(frame, TRAINING_SET_COLUMNS)
    return CheckedTable(
        stored,
        [
            *verify(stored, training_set_rules(training_set), step.windows),
            labels,
            check_leakage(step.project, step.read, training_set, frame, X),
        ],
        facts,
    )


def assemble_rows(
    step: StepContext, training_set: TrainingSet[..., Any], as_of: datetime | None = None
) -> tuple[pl.DataFrame, pl.DataFrame, tuple[str, ...]]:
    """Return the rows of a training set's function, these rows with their features, and the names of the features.

    Parameters
    ----------
    step, training_set
        A step that reads the tables of the training set, and its declaration.
    as_of
        Only rows that were known by this time; all rows when None.

    Raises
    ------
    DataError
        A column is missing, there is no row, or a label is null.
    """
    spine = _filter_known(step.call_for_frame(training_set.function), training_set, as_of)
    steps = [
        step.load_layout(f, as_known=training_set.as_known) if isinstance(f, FeatureView) else f.function for f in training_set.features
    ]
    frame, names = assemble(spine, steps, event_timestamp=training_set.event_timestamp, as_known=training_set.as_known)
    return spine, frame, names


def parse_as_of(text: str | None) -> datetime | None:
    """Parse an ISO 8601 time and return it in UTC; None for no text. A text without zone is UTC; an invalid text raises DataError."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"as_of '{text}' is not a time", hint="give it as ISO 8601, e.g. 2013-04-01 or 2013-04-01T06:00-04:00") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def read_view_rows(step: StepContext, view: FeatureView) -> pl.DataFrame:
    """Return the rows of a feature view as :meth:`StepContext.read` returns them."""
    return step.read(TableRef(view.key, view.partitions, view.event_timestamp))


def _filter_known(spine: pl.DataFrame, training_set: TrainingSet[..., Any], as_of: datetime | None) -> pl.DataFrame:
    """Return the rows that were known by ``as_of``, or all rows without it; raise DataError for missing columns, no rows or null labels."""
    required = [training_set.label, *training_set.columns, *(c for c in (training_set.event_timestamp, training_set.label_known_at) if c)]
    refuse_unstorable(spine, training_set.key)
    if missing := [c for c in required if c not in spine.columns]:
        raise DataError(
            f"'{training_set.key}' declares the column '{missing[0]}', which its function does not return",
            hint=f"it returns {', '.join(spine.columns)}",
        )
    if as_of is not None:
        spine = spine.filter(is_known(training_set, as_of))
    if spine.is_empty():
        raise DataError(
            f"'{training_set.key}' has no row" + (f" known by {as_of}" if as_of else ""),
            hint="materialise more of its datasets, or look at the function's filter",
        )
    if nulls := spine[training_set.label].null_count():
        raise DataError(
            f"'{training_set.key}': the label '{training_set.label}' is null in {nulls} of {spine.height} rows",
            hint="return only rows whose label is known",
        )
    return spine


def check_leakage(
    project: Project, read: ReadColumns, training_set: TrainingSet[..., Any], frame: pl.DataFrame, X: tuple[str, ...]
) -> Outcome:
    """Return the outcome of the non-blocking check that no column of X leaks the label.

    Parameters
    ----------
    project, read
        The project that declares the training set, and a function that reads rows of its datasets.
    training_set
        The training set.
    frame, X
        The rows of the training set, and the columns that models see.
    """
    return _report_leakage(
        _find_repeats(project, read, training_set, frame, X),
        find_strong_columns(frame, X, training_set.label),
        _find_newer_times(training_set, frame, X),
    )


def _find_repeats(
    project: Project, read: ReadColumns, training_set: TrainingSet[..., Any], frame: pl.DataFrame, X: tuple[str, ...]
) -> list[RepeatedColumn]:
    """Return the columns of X whose values repeat the label or a ``known_later`` column of a dataset, on a sample of rows.

    A dataset is skipped when it has no key or the rows lack a column of its key.
    """
    sample = sample_rows(frame)
    repeats = find_repeated_columns(sample, X, sample.select(pl.col(training_set.label).alias(f"the label {training_set.label}")))
    for parameter in training_set.function.tables:
        dataset = project.dataset(parameter.name)
        if dataset is None or not dataset.table.known_later or not dataset.table.key or not set(dataset.table.key) <= set(frame.columns):
            continue
        later = sorted(dataset.table.known_later)
        key = dataset.table.key
        source = read(project.by_key[dataset.key], (*key, *(c for c in later if c not in key)))
        source = source.join(sample.select(key), on=list(key), how="semi")
        source = source.select(*key, *(pl.col(c).alias(f"{dataset.key}.{c}") for c in later))
        later_columns = sample.select(key).join(source, on=list(key), how="left", maintain_order="left")
        repeats += find_repeated_columns(sample, X, later_columns.drop(dataset.table.key))
    return repeats


def _find_newer_times(training_set: TrainingSet[..., Any], frame: pl.DataFrame, X: tuple[str, ...]) -> list[LaterTime]:
    return find_later_times(frame, X, training_set.event_timestamp) if training_set.event_timestamp else []


def _report_leakage(repeated: list[RepeatedColumn], strong: list[StrongColumn], late: list[LaterTime]) -> Outcome:
    """Return the outcome of the leakage check; its message is about the most certain leak.

    The order is: a repeated column, a time after the row's event, a column that predicts the label by itself.
    """
    facts = {
        "columns": ", ".join(f"{x.column} = {x.later}" for x in repeated),
        "newer than their event": ", ".join(f"{x.column} ({x.rows} rows)" for x in late),
        "too good alone": ", ".join(f"{x.column} ({x.share:.3f})" for x in strong),
    }
    if repeated:
        leak = repeated[0]
        message = f"'{leak.column}' in X repeats {leak.later}, which is known only after the row, on {leak.share:.1%} of the rows"
        hint = f"drop '{leak.column}' from columns= or features=: at prediction time it does not exist"
    elif late:
        message = (
            f"'{late[0].column}' in X is later than its row's event in {late[0].rows} rows: {late[0].first} for an event of {late[0].event}"
        )
        hint = (
            f"if '{late[0].column}' is a planned time that was known then, keep it; otherwise drop it: at prediction time it does not exist"
        )
    elif strong:
        finding = "orders {:.1%} of the pairs of both classes right" if strong[0].of_classes else "ranks {:.1%} like the label"
        message = f"'{strong[0].column}' in X {finding.format(strong[0].share)} by itself"
        hint = f"check that '{strong[0].column}' is known before the label; such a column is seldom legitimate"
    else:
        return Outcome(NO_LEAKAGE, passed=True, blocking=False)
    return Outcome(NO_LEAKAGE, passed=False, blocking=False, message=message, hint=hint, facts={k: v for k, v in facts.items() if v})


def list_x_columns(training_set: TrainingSet[..., Any], rows: pl.DataFrame) -> tuple[str, ...]:
    """Return the columns of ``X`` in order: features, then the training set's columns.

    On-demand functions are run on the first 8 rows to find the names of their features. Raise DefinitionError if a column that they read
    is missing.
    """
    steps = [f for f in training_set.features if not isinstance(f, FeatureView)]
    outputs: dict[str, tuple[str, ...]] = {}
    sample = rows.head(8)
    for step in steps:
        arguments = sample.select(set(step.parameters) & set(sample.columns))
        if missing := set(step.parameters) - set(sample.columns):
            raise DefinitionError(
                f"on-demand features '{step.name}' read '{min(missing)}', which '{training_set.key}' lacks",
                hint=f"it has {', '.join(sample.columns)}",
            )
        _, outputs[step.name] = assemble(arguments, [step.function], event_timestamp=None, as_known=True)
    names = [name for f in training_set.features for name in (f.renamed_features if isinstance(f, FeatureView) else outputs[f.name])]
    return (*names, *training_set.columns)
