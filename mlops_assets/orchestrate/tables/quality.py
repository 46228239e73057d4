"""Check the rows of a table, and prepare its companions for the same transaction: learned limits and quarantined rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.tables.quality import hash_declaration, learn_limits, limits_from_table, limits_to_table
from mlops_assets.compute.tables.quarantine import (
    KEY,
    NO_QUARANTINED_ROWS,
    ORIGIN_COLUMNS,
    TIME,
    build_quarantine_outcome,
    count_partitions,
    count_reasons,
    reword_for_refused_write,
    split_quarantine,
)
from mlops_assets.compute.tables.row_rules import merge_windows
from mlops_assets.compute.tables.stored_types import cast_to_stored
from mlops_assets.compute.tables.verify import Outcome, check_names, find_violations, verify
from mlops_assets.errors import DefinitionError, LakeError
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.partitions import list_partition_keys
from mlops_assets.orchestrate.core.project import Project, reads_labels
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.partition_calls import ProducedRows, build_emptied_outcome, build_misplaced_outcome
from mlops_assets.stores.lake.protocol import Partition, TableWrite
from mlops_assets.stores.lake.rows import refuse_unstorable
from mlops_assets.stores.lake.table_sql import MAX_KEYS
from mlops_assets.values.dataset import Dataset, Table
from mlops_assets.values.features import FeatureView
from mlops_assets.values.quality import Limit, Quality
from mlops_assets.values.window import TimeWindow, window_of

Windows = Sequence[tuple[str, TimeWindow | None]]  # each partition with its window; None in a table without partitions
MAX_PREVIEW_ROWS = 20
KEY_ACROSS = "key_across_partitions"


@dataclass(frozen=True)
class CompanionWrite:
    """A table that is committed in the same transaction as the table of a step, with its metadata.

    Parameters
    ----------
    write
        The table to commit.
    metadata
        Partition → metadata of its materialisation; the only key is ``""`` when the table is not partitioned.
    """

    write: TableWrite
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def report(self, step: StepContext) -> None:
        """Log the companion's partitions as materialised, in the step of its table."""
        for key, facts in self.metadata.items():
            event = dg.AssetMaterialization(asset_key(self.write.table), metadata=dict(facts), partition=key or None)
            step.context.log_event(event)


@dataclass(frozen=True)
class CheckedTable:
    """The rows of a step with the outcomes of their checks; the rows are committed unless a blocking check failed.

    Parameters
    ----------
    frame
        The rows.
    outcomes
        The outcomes of the checks.
    metadata
        Metadata in addition to the metadata that every table has.
    companions
        Tables that are committed in the same transaction.
    """

    frame: pl.DataFrame
    outcomes: Sequence[Outcome]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    companions: Sequence[CompanionWrite] = ()


def companion_assets(project: Project) -> Iterator[dg.AssetSpec]:
    """Yield quarantines, learned limits and labels as assets. The step of a table writes its quarantine and limits; people write labels."""
    tables: list[Dataset[..., Any] | FeatureView] = [*project.select(Dataset), *project.select(FeatureView)]
    for declaration in tables:
        table = _table_rules(declaration)
        group = declaration.options.group or "data"
        if isinstance(declaration, Dataset) and table.quarantine is not None:
            text = f"Rows of {declaration.key} that break a rule on rows, with the reason of each. `mlops quarantine replay {declaration.name}` checks them again."
            yield _companion_spec(declaration.quarantine_key, [declaration.key], text, "quarantine", group, declaration.table.partitions)
        if table.quality is not None and table.quality.learn_from is not None:
            yield _companion_spec(
                declaration.quality_key, [declaration.key], f"The quality limits learned from {declaration.key}.", "quality", group, None
            )
        if isinstance(declaration, Dataset) and reads_labels(declaration):
            text = f"Labels that people gave to traces for {declaration.key}, with `mlops traces label`."
            yield _companion_spec(declaration.labels_key, [], text, "labels", group, None)


def _table_rules(declaration: Dataset[..., Any] | FeatureView) -> Table:
    return declaration.table if isinstance(declaration, Dataset) else Table(quality=declaration.quality)


def _companion_spec(  # noqa: PLR0913  (one declaration)
    key: str, owners: Sequence[str], description: str, kind: str, group: str, partitions: dg.PartitionsDefinition | None
) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(key),
        deps=[asset_key(owner) for owner in owners],
        description=description,
        kinds={kind, "duckdb"},
        group_name=group,
        partitions_def=partitions,
    )


def list_checks(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a table's checks, and the names of those that only warn."""
    warns = ("quality",) if table.quality is not None and not table.quality.blocks else ()
    quarantine = (NO_QUARANTINED_ROWS,) if table.quarantine is not None else ()
    across = (KEY_ACROSS,) if _keys_may_repeat(table) else ()
    return (*check_names(table), *across, *quarantine), (*warns, *across, *quarantine)


def _keys_may_repeat(table: Table) -> bool:
    """Return whether a key can be in two partitions: only if the key does not include the event time of the table."""
    return table.partitions is not None and bool(table.key) and table.event_timestamp not in table.key


def _check_other_partitions(step: StepContext, frame: pl.DataFrame, table: Table) -> list[Outcome]:
    """Return the outcome that warns of keys that other partitions have as well; empty when the table's keys cannot repeat.

    This is no error: a row whose event time changes is in two partitions until its old partition is rebuilt.
    """
    if not _keys_may_repeat(table) or not set(table.key) <= set(frame.columns):
        return []
    windows = merge_windows(step.windows)
    time, lake = table.event_timestamp or "", step.stores.lake
    if lake.records(step.node.key, snapshot=step.snapshot).keys() <= set(step.keys):
        return [Outcome(KEY_ACROSS, passed=True, blocking=False)]  # there are no other partitions
    repeated = lake.find_keys(
        step.node.key, cast_to_stored(frame.select(table.key)), outside=windows, event_timestamp=time, snapshot=step.snapshot
    )
    if repeated.is_empty():
        return [Outcome(KEY_ACROSS, passed=True, blocking=False)]
    *first, elsewhere = repeated.row(0)
    identity = dict(zip(table.key, first, strict=True))
    label = f"'{step.keys[0]}'" if len(step.keys) == 1 else f"'{step.keys[0]}' to '{step.keys[-1]}'"
    more = " or more" if repeated.height == MAX_KEYS else ""
    message = f"{repeated.height}{more} key(s) of partition(s) {label} are in other partitions as well; the first: {identity}, also at {elsewhere}"
    hint = "if a file was read twice, deduplicate where it is read; if the row has moved, materialise the other partition again"
    return [Outcome(KEY_ACROSS, passed=False, message=message, hint=hint, blocking=False, facts={"keys": repeated.height})]


def check_table(
    step: StepContext, produced: ProducedRows | pl.DataFrame, table: Table, *, quality_key: str, quarantine_key: str = ""
) -> CheckedTable:
    """Verify rows, learn quality limits when the reference period is complete, and split off bad rows if there is a quarantine.

    Nothing is written: the caller commits the returned rows and companions.

    Parameters
    ----------
    step, produced, table
        The step, its rows and their rules.
    quality_key, quarantine_key
        Tables of the learned limits and of the quarantined rows.
    """
    produced = produced if isinstance(produced, ProducedRows) else ProducedRows(produced, {})
    frame = produced.frame
    refuse_unstorable(frame, step.node.key)
    if table.quarantine is not None:
        return _check_with_quarantine(step, produced, table, table.quarantine, quality_key, quarantine_key)
    limits, companions = _find_limits(step, table, quality_key, lambda: frame)
    outcomes = [*verify(frame, table, step.windows, limits=limits), *_check_other_partitions(step, frame, table)]
    return CheckedTable(frame, _replace_by_call_failures(step, produced, frame, table, outcomes), companions=companions)


def _check_with_quarantine(  # noqa: PLR0913  (one table)
    step: StepContext, produced: ProducedRows, table: Table, share: float, quality_key: str, quarantine_key: str
) -> CheckedTable:
    """Check the good rows only; bad rows and strays go to the quarantine, whose check fails if they exceed ``share`` of a partition."""
    frame, windows = produced.frame, dict(step.windows)
    split = partial(split_quarantine, table=table, run_id=step.context.run.run_id, now=datetime.now(UTC))
    limits, companions = _find_limits(step, table, quality_key, lambda: split(frame, windows=step.windows, limits=None)[0])
    violations = list(find_violations(frame, table, step.windows, limits=limits))
    good_rows, bad_rows = split(frame, windows=step.windows, limits=limits, violations=violations)
    strays = [split(rows, windows=[(key, windows[key])], limits=limits)[1] for key, rows in produced.strays.items()]
    bad_rows = pl.concat([bad_rows, *strays])
    counts = count_partitions(frame, table, step.windows)
    counts = [n + (produced.strays[key].height if key in produced.strays else 0) for n, key in zip(counts, windows, strict=True)]
    quarantined = build_quarantine_outcome(bad_rows, counts, step.windows, share=share, name=quarantine_key.rsplit("/", maxsplit=1)[-1])
    # Without bad rows, the violations above are complete.
    verified = verify(good_rows, table, step.windows, limits=limits, violations=violations if good_rows.height == frame.height else None)
    outcomes = [*verified, *_check_other_partitions(step, good_rows, table), quarantined]
    outcomes = _replace_by_call_failures(step, replace(produced, strays={}), good_rows, table, outcomes)
    if any(o.blocking and not o.passed and o.check != NO_QUARANTINED_ROWS for o in outcomes):
        outcomes = [reword_for_refused_write(o, bad_rows) if o.check == NO_QUARANTINED_ROWS and not o.blocking else o for o in outcomes]
    # The quarantine comes first: too many bad rows can cause violations among the good ones.
    outcomes = sorted(outcomes, key=lambda o: o.check != NO_QUARANTINED_ROWS)
    return CheckedTable(good_rows, outcomes, companions=[*companions, _build_quarantine_write(step, quarantine_key, bad_rows)])


def _replace_by_call_failures(
    step: StepContext, produced: ProducedRows, frame: pl.DataFrame, table: Table, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """Replace passed outcomes by failures of the same check that concern the calls: misplaced rows and emptied partitions."""
    misplaced = build_misplaced_outcome(produced, table, dict(step.windows))
    emptied = build_emptied_outcome(step, frame, table) if produced.whole_range else None
    failures = {outcome.check: outcome for outcome in (misplaced, emptied) if outcome is not None}
    return [failures.get(outcome.check, outcome) if outcome.passed else outcome for outcome in outcomes]


def _build_quarantine_write(step: StepContext, key: str, bad_rows: pl.DataFrame) -> CompanionWrite:
    partitions = [Partition(name, window) for name, window in step.windows]
    partitioned = step.node.partitions is not None
    metadata = {name: _summarise_rows(bad_rows.filter(pl.col("partition") == name)) for name, _ in step.windows}
    return CompanionWrite(TableWrite(key, bad_rows, partitions, TIME if partitioned else None, KEY, ORIGIN_COLUMNS), metadata)


def _summarise_rows(rows: pl.DataFrame) -> dict[str, Any]:
    return {
        "dagster/row_count": rows.height,
        "by reason": to_markdown([{"reason": reason, "rows": count} for reason, count in count_reasons(rows)]),
        "preview": to_markdown(rows.select("row", "column", "reason").head(MAX_PREVIEW_ROWS).to_dicts()),
    }


def _find_limits(
    step: StepContext, table: Table, key: str, good_rows: Callable[[], pl.DataFrame]
) -> tuple[tuple[Limit, ...], list[CompanionWrite]]:
    """Return the limits that apply, and the write of the limits if this step learns them from its good rows.

    Until every reference partition is recorded or in this step, only the declared limits apply.
    """
    quality = table.quality
    if quality is None or quality.learn_from is None:
        return (quality.declared if quality else ()), []
    windows = list_reference_windows(quality, table, step.node.key)
    new_keys = {name for name, _ in step.windows}
    stored = _read_limits(step, key, quality)
    if stored is not None and not any(name in new_keys for name, _ in windows):
        return limits_from_table(stored), []
    recorded = step.stores.lake.records(step.node.key, snapshot=step.snapshot)
    missing = [name for name, _ in windows if name not in new_keys and name not in recorded]
    if missing:
        ready = len(windows) - len(missing)
        step.context.log.info(f"'{step.node.key}' has {ready} of the {len(windows)} partitions that its quality limits are learned from")
        return quality.declared, []
    rows = _read_reference_rows(step, table, good_rows(), windows, new_keys)
    excluded_columns = (
        *table.key,
        *(c for c in (table.event_timestamp, table.created_timestamp) if c),
        *(known for _, known in table.known_at),
    )
    limits = learn_limits(quality, rows, table.event_timestamp, windows, excluded_columns=excluded_columns)
    metadata = {
        "": {"limits": to_markdown([{"rule": x.rule, "column": x.column, "limit": x.text} for x in limits]), "margin": quality.margin}
    }
    return limits, [CompanionWrite(TableWrite(key, limits_to_table(limits, quality), [Partition("")]), metadata)]


def list_reference_windows(quality: Quality, table: Table, key: str) -> list[tuple[str, TimeWindow | None]]:
    """Return the partitions that the limits of a table are learned from, with their windows; ``key`` names the table in errors.

    Raises
    ------
    DefinitionError
        ``learn_from`` selects no partition.
    """
    keys = list_partition_keys(table.partitions)
    learn_from = quality.learn_from
    chosen = keys[:learn_from] if isinstance(learn_from, int) else _select_partitions(table, learn_from)
    if not chosen:
        raise DefinitionError(
            f"'{key}' learns its quality limits from {learn_from}, where it has no partition",
            hint=f"its partitions are {keys[0]} to {keys[-1]}",
        )
    return [(name, window_of(table.partitions, name)) for name in chosen]


def _select_partitions(table: Table, learn_from: tuple[str, str] | None) -> Sequence[str]:
    """Return the partitions from the first bound of ``learn_from``, included, to the second, excluded.

    Bounds that are not partition keys are compared as text instead of as time.
    """
    keys = list_partition_keys(table.partitions)
    if learn_from is None:
        return []
    try:
        first, last = (window_of(table.partitions, bound) for bound in learn_from)
    except (ValueError, dg.DagsterError):  # e.g. a day where the partitions are hours
        return [name for name in keys if learn_from[0] <= name < learn_from[1]]
    if first is None or last is None:
        return []
    spans = [(name, window_of(table.partitions, name)) for name in keys]
    return [name for name, span in spans if span is not None and first.start <= span.start < last.start]


def _read_limits(step: StepContext, key: str, quality: Quality) -> pl.DataFrame | None:
    """Return the stored limits; None when there are none, or when they were learned for another quality declaration."""
    try:
        rows = step.stores.lake.read(key, snapshot=step.snapshot)
    except LakeError:
        return None
    return rows if rows["declaration"].unique().to_list() == [hash_declaration(quality)] else None


def _read_reference_rows(step: StepContext, table: Table, frame: pl.DataFrame, windows: Windows, new_keys: set[str]) -> pl.DataFrame:
    """Return the rows of the reference period: of the step's partitions from ``frame``, of the others from the lake."""
    column = pl.col(table.event_timestamp or "")
    frames = []
    for name, window in windows:
        if window is None:
            continue
        if name in new_keys:
            frames.append(frame.filter(column.is_between(window.start, window.end, closed="left")))
        else:
            read = step.stores.lake.read(step.node.key, window=window, event_timestamp=table.event_timestamp, snapshot=step.snapshot)
            frames.append(read)
    return pl.concat(frames, how="diagonal_relaxed")
