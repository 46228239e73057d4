"""How tables of the lake are made: produce, verify, commit, report."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.feature_schema import conformed
from mlops_assets.compute.sql import queried
from mlops_assets.compute.verify import Outcome
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.discovery import source_lineage, view_metadata
from mlops_assets.orchestrate.metadata import check_result, table_metadata
from mlops_assets.orchestrate.project import computed_from, rules_of
from mlops_assets.orchestrate.quality import Beside, Checked, checked, table_checks
from mlops_assets.orchestrate.scope import Scope
from mlops_assets.orchestrate.steps import asset_key
from mlops_assets.stores.lake import Commit
from mlops_assets.values.dataset import Dataset, ExternalDataset, Table
from mlops_assets.values.feature_sources import Computed, Sql
from mlops_assets.values.features import FeatureView

Made = tuple[pl.DataFrame, Sequence[Outcome], Mapping[str, Any]] | Checked


def check_specs(key: str, names: Iterable[str], *, warnings: Collection[str] = ()) -> list[dg.AssetCheckSpec]:
    """Return the declarations of a table's checks; all but the ``warnings`` block."""
    return [dg.AssetCheckSpec(name, asset=asset_key(key), blocking=name not in warnings) for name in names]


def publish(scope: Scope, rules: Table, produce: Callable[[], Made], *, unhashed: Collection[str] = ()) -> Iterator[object]:
    """Make a table and commit it, unless a check that blocks has failed.

    Parameters
    ----------
    scope
        The step.
    rules
        Key and event time of the table.
    produce
        Returns the rows, what the checks found, and more metadata.
    unhashed
        Columns that do not count as content.
    """
    attempts, key = scope.places.attempts, scope.node.key
    attempts.started(key, scope.parts, scope.context.run.run_id)
    try:
        made = produce()
        frame, outcomes, metadata = (made.frame, made.outcomes, made.metadata) if isinstance(made, Checked) else made
        beside = made.beside if isinstance(made, Checked) else ()
        refused = [o for o in outcomes if o.blocking and not o.passed]
        commit = None if refused else _write(scope, rules, frame, unhashed, beside)
    except Exception as error:
        attempts.failed(key, scope.parts, f"{type(error).__name__}: {error}")
        raise
    results = [check_result(asset_key(key), outcome) for outcome in outcomes]
    if commit is None:
        attempts.failed(key, scope.parts, refused[0].message)
        yield from results
        raise _refusal(scope, refused)
    attempts.succeeded(key, scope.parts)
    for table in beside:
        table.report(scope)
    yield dg.MaterializeResult(
        asset_key(key),
        check_results=results,
        metadata={**_committed(scope, commit), **metadata, **table_metadata(frame)},
        data_version=dg.DataVersion(_version(commit)),
    )


def _write(scope: Scope, rules: Table, frame: pl.DataFrame, unhashed: Collection[str], beside: Sequence[Beside]) -> Commit:
    return scope.places.lake.write(
        scope.node.key,
        frame,
        scope.parts,
        event_timestamp=rules.event_timestamp,
        key=rules.key,
        run_id=scope.context.run.run_id,
        unhashed=unhashed,
        beside=[table.write for table in beside],
    )


def _refusal(scope: Scope, refused: Sequence[Outcome]) -> DataError:
    keys = scope.keys
    where = (
        "" if scope.node.partitions is None else f" partition '{keys[0]}'" if len(keys) == 1 else f" partitions '{keys[0]}' to '{keys[-1]}'"
    )
    return DataError(
        f"'{scope.node.key}'{where}: {'; '.join(o.message for o in refused)}. Nothing was committed; the earlier data stay readable",
        hint=refused[0].hint,
    )


def _version(commit: Commit) -> str:
    hashes = [record.content_hash for record in commit.records]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _committed(scope: Scope, commit: Commit) -> dict[str, Any]:
    for record in commit.records if scope.node.partitions is not None and len(commit.records) > 1 else ():
        facts = {"partition rows": record.rows, "content hash": record.content_hash}
        scope.context.add_asset_metadata(facts, asset_key=asset_key(scope.node.key), partition_key=record.partition)
    changed = f"{len(commit.changed)} of {len(commit.records)}"
    return {
        "lake snapshot": commit.snapshot,
        "content hash": _version(commit),
        "changed partitions" if scope.node.partitions else "changed": changed,
    }


def dataset_body(dataset: Dataset[..., Any]) -> Callable[[Scope], Iterator[object]]:
    """Return the body of a dataset's step."""

    def body(scope: Scope) -> Iterator[object]:
        def produce() -> Made:
            frame = scope.frame(dataset.function)
            return checked(scope, frame, dataset.table, quality_key=dataset.quality_key, quarantine_key=dataset.quarantine_key)

        yield from publish(scope, dataset.table, produce)

    return body


def feature_view_body(view: FeatureView) -> Callable[[Scope], Iterator[object]]:
    """Return the body of the step of a feature view: its keys, times and features."""
    rules = rules_of(view)
    columns = (*rules.key, *(name for name in view.feature_names if name not in rules.key))

    def body(scope: Scope) -> Iterator[object]:
        def produce() -> Made:
            rows, source = _source_rows(scope, view)
            if missing := [name for name in columns if name not in rows.columns]:
                raise DataError(
                    f"'{view.key}' needs the column '{missing[0]}', which {source} lacks", hint=f"it has {', '.join(rows.columns)}"
                )
            frame = conformed(rows.select(columns).drop_nulls(rules.key), view.features, view.key)
            found = checked(scope, frame, rules, quality_key=view.quality_key)
            shown = view_metadata(view, frame, source_lineage(scope.project, scope.places, view))
            return replace(found, metadata={"source": source, "version": view.version(), **shown})

        scope.places.view_versions.declare(view, view.version(), scope.places.lake.snapshot())
        yield from publish(scope, rules, produce)

    return body


def _source_rows(scope: Scope, view: FeatureView) -> tuple[pl.DataFrame, str]:
    """Return what a feature view is taken from, and where that is."""
    match view.source:
        case Computed():
            return scope.frame(view.source.function), "its function"
        case Sql():
            return pl.concat(_answers(scope, view, view.source), how="vertical_relaxed"), "its query"
        case Dataset() | ExternalDataset():
            return scope.read(scope.project.by_key[view.source.key]), f"'{view.source.key}'"
    raise TypeError(view.source)  # dbt's models are dbt's own assets


def _answers(scope: Scope, view: FeatureView, source: Sql) -> Iterator[pl.DataFrame]:
    """Ask a query once for each partition: what it says of its window is then the same in a run over many."""
    refs = {name: scope.project.tables[name] for name in computed_from(source)}
    whole = {name: scope.read(ref) for name, ref in refs.items()}
    for key, window in scope.windows:
        tables = {name: scope.part(refs[name], rows, key) for name, rows in whole.items()}
        yield queried(source.query, tables, window, f"'{view.key}'")


def table_check_specs(key: str, table: Table) -> list[dg.AssetCheckSpec]:
    """Return the declarations of the checks of a dataset or a feature view."""
    names, warnings = table_checks(table)
    return check_specs(key, names, warnings=warnings)
