"""The step of a batch prediction: the champion predicts partitions of a dataset; an earlier one predicts those it was fitted on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.assemble import assemble, rename_view_rows
from mlops_assets.compute.features.layout import AsOfLayout
from mlops_assets.compute.features.point_in_time import ViewRows
from mlops_assets.compute.tables.own_columns import (
    MODEL_VERSION,
    PREDICTION_COLUMNS,
    PROBABILITY,
    PROBABILITY_OF,
    PROBLEM,
    RUN_ID,
    lake_column,
    rename_to_table,
)
from mlops_assets.compute.tables.verify import check_names, verify
from mlops_assets.errors import RegistryError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.predictions.fitted_rows import choose_versions
from mlops_assets.orchestrate.predictions.prediction_tables import stack_predictions
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.orchestrate.training.training_set import read_view_rows
from mlops_assets.serving.formats.integrity import refuse_damaged
from mlops_assets.serving.formats.packaging import find_changed_libraries, unpack
from mlops_assets.serving.logs.prediction_rows import build_batch_columns, read_key_types
from mlops_assets.serving.predict.batch import score_rows, select_input
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.dataset import Table
from mlops_assets.values.features import select_feature_views
from mlops_assets.values.serving import BatchPrediction


def prediction_rules(batch: BatchPrediction) -> Table:
    """Return the rules for rows of predictions: key, event time and partitions of the dataset. A partition may be empty."""
    table = batch.dataset.table
    key = tuple(lake_column(column, PREDICTION_COLUMNS) for column in table.key)
    time = table.event_timestamp and lake_column(table.event_timestamp, PREDICTION_COLUMNS)
    return Table(partitions=table.partitions, key=key, event_timestamp=time, allow_empty=True)


def list_prediction_checks(batch: BatchPrediction) -> list[dg.AssetCheckSpec]:
    """Return the Dagster check specs of a batch prediction's table."""
    return build_check_specs(batch.key, check_names(prediction_rules(batch)))


def prediction_body(batch: BatchPrediction) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of a batch prediction's step."""

    def body(step: StepContext) -> Iterator[object]:
        champion = step.stores.registry.champion(batch.model.name)
        if champion is None:
            raise RegistryError(
                f"'{batch.key}' has no champion of '{batch.model.name}' to predict with",
                hint=f"train one first: mlops run --select '{select_nodes(*(f'{kind}/{batch.model.name}' for kind in ('model', 'version', 'champion')))}'",
            )
        yield from publish_table(
            step,
            prediction_rules(batch),
            lambda: _predict_partitions(step, batch, champion),
            unhashed_columns=(lake_column(RUN_ID, PREDICTION_COLUMNS),),
        )

    return body


def _predict_partitions(step: StepContext, batch: BatchPrediction, champion: Version) -> CheckedTable:
    """Return the predictions for the step's partitions, each by the version chosen for it, with checks and facts for the UI."""
    source = step.read(step.project.by_key[batch.dataset.key])
    # Columns that are known later than their row do not exist at prediction time.
    spine = source.drop(batch.dataset.table.known_later, strict=False)
    time = batch.dataset.table.event_timestamp
    chosen = choose_versions(step.stores, step.project, batch.model, champion, spine, _assign_partitions(step, spine, time), time)
    predicted = [_predict(step, batch, version, rows) for version, rows in chosen]
    frame = stack_predictions(step, [rename_to_table(rows, PREDICTION_COLUMNS) for rows in predicted], time)
    scored = pl.concat([rows.select(PROBABILITY, PROBABILITY_OF, PROBLEM) for rows in predicted])
    return CheckedTable(
        frame, verify(frame, prediction_rules(batch), step.windows), _prediction_metadata([version for version, _ in chosen], scored)
    )


def _assign_partitions(step: StepContext, rows: pl.DataFrame, time: str | None) -> pl.Series:
    """Return the partition key of each row by its event time; an empty key without partitions or event times."""
    spans = [(key, span) for key, span in step.windows if span is not None]
    if time is None or not spans:
        return pl.Series([""] * rows.height, dtype=pl.String)
    starts = pl.Series([span.start for _, span in spans]).cast(rows.schema[time])
    position = starts.search_sorted(rows[time], side="right").cast(pl.Int64) - 1
    return pl.Series([key for key, _ in spans]).gather(position.clip(0))


def _predict(step: StepContext, batch: BatchPrediction, version: Version, spine: pl.DataFrame) -> pl.DataFrame:
    """Return the predictions of one version for some rows: identity columns, the columns of ``X``, predictions, version and run."""
    training_set = batch.model.training_set
    refuse_damaged(step.stores.registry, step.stores.artifacts, version)
    bundle = unpack(step.stores.artifacts, version.artifact, batch.model.trusted_types)
    for other in find_changed_libraries(bundle.manifest):
        step.context.log.warning(f"version {version.version} of '{version.model}' was trained with other libraries: {other}")
    steps: list[ViewRows | AsOfLayout | Callable[..., Any]] = [
        *(
            rename_view_rows(view, read_view_rows(step, view), as_known=training_set.as_known)
            for view in select_feature_views(training_set.features)
        ),
        *bundle.functions,
    ]
    rows, _ = assemble(spine, steps, event_timestamp=training_set.event_timestamp, as_known=training_set.as_known, flag_missing=True)
    X = select_input(bundle, rows, f"'{batch.key}'")
    return pl.concat(
        [
            _select_identity(batch, rows, X, read_key_types(bundle.manifest)),
            X,
            score_rows(bundle, X),
            pl.DataFrame({MODEL_VERSION: pl.Series([version.version] * rows.height, dtype=pl.Int64)}),
            build_batch_columns(rows, batch.dataset.table.key),
        ],
        how="horizontal",
    ).with_columns(pl.lit(step.context.run.run_id).alias(RUN_ID))


def _select_identity(batch: BatchPrediction, rows: pl.DataFrame, X: pl.DataFrame, lookup_columns: Iterable[str]) -> pl.DataFrame:
    """Return the lookup columns, key and event times of each row, except those that are columns of ``X``."""
    times = (batch.dataset.table.event_timestamp, batch.model.training_set.event_timestamp)
    columns = dict.fromkeys(
        c for c in (*lookup_columns, *batch.dataset.table.key, *times) if c and c in rows.columns and c not in X.columns
    )
    return rows.select(list(columns))


def _prediction_metadata(versions: Sequence[Version], scored: pl.DataFrame) -> dict[str, Any]:
    mean, refused = scored[PROBABILITY].mean(), scored.height - scored[PROBLEM].null_count()
    numbers = sorted(version.version for version in versions)
    facts: dict[str, Any] = {"model version": numbers[0] if len(numbers) == 1 else ", ".join(map(str, numbers))}
    facts["rows without a prediction"] = refused
    facts["share without a prediction"] = refused / scored.height if scored.height else 0.0
    if scored.height and (positive := scored[PROBABILITY_OF][0]) is not None:
        facts["positive class"] = positive
    return facts | ({"mean probability": float(mean)} if mean is not None else {})
