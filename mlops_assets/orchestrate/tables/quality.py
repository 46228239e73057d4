"""What stands beside a table: the limits it has learnt, and the rows it has set aside; both are committed with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.tables.quality import hash_declaration, learn_limits, limits_from_table, limits_to_table
from mlops_assets.compute.tables.quarantine import (
    KEY,
    NO_QUARANTINED_ROWS,
    ORIGIN_COLUMNS,
    TIME,
    count_partitions,
    count_reasons,
    quarantine_outcome,
    split_quarantine,
    unwritten_outcome,
)
from mlops_assets.compute.tables.row_rules import merge_windows
from mlops_assets.compute.tables.stored_types import cast_to_stored
from mlops_assets.compute.tables.verify import Outcome, check_names, verify
from mlops_assets.errors import DefinitionError, LakeError
from mlops_assets.orchestrate.core.metadata import markdown
from mlops_assets.orchestrate.core.partitions import all_keys
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.partition_calls import Produced, emptied_outcome, misplaced_outcome
from mlops_assets.stores.lake.protocol import Partition, TableWrite
from mlops_assets.stores.lake.rows import refuse_unstorable
from mlops_assets.stores.lake.table_sql import MAX_KEYS
from mlops_assets.values.dataset import Dataset, Table
from mlops_assets.values.features import FeatureView
from mlops_assets.values.quality import Limit, Quality
from mlops_assets.values.window import TimeWindow, window_of

Windows = Sequence[tuple[str, TimeWindow | None]]
PREVIEW = 20
KEY_ACROSS = "key_across_partitions"


@dataclass(frozen=True)
class CompanionWrite:
    """A table that is committed together with another, and what the UI shows of it.

    Parameters
    ----------
    write
        What is committed.
    shown
        Partition → metadata; the key ``""`` when it is not partitioned.
    """

    write: TableWrite
    shown: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def report(self, step: StepContext) -> None:
        """Tell Dagster what was written: both are assets that their table's step writes."""
        for key, facts in self.shown.items():
            event = dg.AssetMaterialization(asset_key(self.write.table), metadata=dict(facts), partition=key or None)
            step.context.log_event(event)


@dataclass(frozen=True)
class Checked:
    """Rows that may be committed, what was found, and what is committed beside them."""

    frame: pl.DataFrame
    outcomes: Sequence[Outcome]
    beside: Sequence[CompanionWrite] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def side_assets(project: Project) -> Iterator[dg.AssetSpec]:
    """Yield the quarantines and the learnt limits of a project, as assets that are written by their tables' steps."""
    nouns: list[Dataset[..., Any] | FeatureView] = [*project.every(Dataset), *project.every(FeatureView)]
    for noun in nouns:
        table = _table(noun)
        group = noun.options.group or "data"
        if isinstance(noun, Dataset) and table.quarantine is not None:
            text = f"Rows of {noun.key} that break a rule on rows, with the reason of each. `mlops quarantine replay {noun.name}` tries them again."
            yield _side(noun.quarantine_key, noun.key, text, "quarantine", group, noun.table.partitions)
        if table.quality is not None and table.quality.learn_from is not None:
            yield _side(noun.quality_key, noun.key, f"The limits that {noun.key} has learnt.", "quality", group, None)


def _table(noun: Dataset[..., Any] | FeatureView) -> Table:
    return noun.table if isinstance(noun, Dataset) else Table(quality=noun.quality)


def _side(key: str, of: str, text: str, kind: str, group: str, partitions: dg.PartitionsDefinition | None) -> dg.AssetSpec:  # noqa: PLR0913  (one declaration)
    return dg.AssetSpec(
        asset_key(key), deps=[asset_key(of)], description=text, kinds={kind, "duckdb"}, group_name=group, partitions_def=partitions
    )


def table_checks(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a table's checks, and of those among them that only warn."""
    warns = ("quality",) if table.quality is not None and not table.quality.blocks else ()
    aside = (NO_QUARANTINED_ROWS,) if table.quarantine is not None else ()
    across = (KEY_ACROSS,) if _may_repeat(table) else ()
    return (*check_names(table), *across, *aside), (*warns, *across, *aside)


def _may_repeat(table: Table) -> bool:
    """Whether a key can be in two partitions: not when the time that divides them is part of it."""
    return table.partitions is not None and bool(table.key) and table.event_timestamp not in table.key


def _across(step: StepContext, frame: pl.DataFrame, table: Table) -> list[Outcome]:
    """Look for the keys of the new rows in the other partitions; a warning, because a row that moves is in both for a while."""
    if not _may_repeat(table) or not set(table.key) <= set(frame.columns):
        return []
    windows = merge_windows(step.windows)
    time, lake = table.event_timestamp or "", step.stores.lake
    found = lake.find_keys(
        step.node.key, cast_to_stored(frame.select(table.key)), outside=windows, event_timestamp=time, snapshot=step.snapshot
    )
    if found.is_empty():
        return [Outcome(KEY_ACROSS, passed=True, blocking=False)]
    *first, elsewhere = found.row(0)
    identity = dict(zip(table.key, first, strict=True))
    label = f"'{step.keys[0]}'" if len(step.keys) == 1 else f"'{step.keys[0]}' to '{step.keys[-1]}'"
    more = " or more" if found.height == MAX_KEYS else ""
    message = (
        f"{found.height}{more} key(s) of partition(s) {label} are in other partitions as well; the first: {identity}, also at {elsewhere}"
    )
    hint = "was a file read twice? Deduplicate where it is read, and make the other partition again if the row has moved"
    return [Outcome(KEY_ACROSS, passed=False, message=message, hint=hint, blocking=False, facts={"keys": found.height})]


def checked(step: StepContext, made: Produced | pl.DataFrame, table: Table, *, quality_key: str, quarantine_key: str = "") -> Checked:
    """Verify rows with limits that may have to be learnt first, and set those aside that break a rule when the table allows it.

    Parameters
    ----------
    step, made, table
        The step, its rows and their rules.
    quality_key, quarantine_key
        Where learnt limits and refused rows go.
    """
    run_id, now = step.context.run.run_id, datetime.now(UTC)
    made = made if isinstance(made, Produced) else Produced(made, {})
    frame = made.frame
    refuse_unstorable(frame, step.node.key)

    def divided(limits: Sequence[Limit] | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        return split_quarantine(frame, table, step.windows, limits=limits, run_id=run_id, now=now)

    limits, beside = _limits(step, table, quality_key, divided(None)[0] if table.quarantine is not None else frame)
    if table.quarantine is None:
        found = verify(frame, table, step.windows, limits=limits)
        return Checked(frame, _with_calls(step, made, frame, table, [*found, *_across(step, frame, table)]), beside)
    kept, refused = divided(limits)
    strays = [
        split_quarantine(rows, table, [(key, dict(step.windows)[key])], limits=limits, run_id=run_id, now=now)[1]
        for key, rows in made.strays.items()
    ]
    refused = pl.concat([refused, *strays])
    name = quarantine_key.rsplit("/", maxsplit=1)[-1]
    counts = count_partitions(frame, table, step.windows)
    counts = [n + (made.strays[key].height if key in made.strays else 0) for n, (key, _) in zip(counts, step.windows, strict=True)]
    outcome = quarantine_outcome(refused, counts, step.windows, share=table.quarantine, name=name)
    found = [*verify(kept, table, step.windows, limits=limits), *_across(step, kept, table), outcome]
    found = _with_calls(step, replace(made, strays={}), kept, table, found)
    if any(o.blocking and not o.passed and o.check != NO_QUARANTINED_ROWS for o in found):
        found = [unwritten_outcome(o, refused) if o.check == NO_QUARANTINED_ROWS and not o.blocking else o for o in found]
    # What quarantine says comes first: rules that the good rows alone break are a consequence of too many bad ones.
    return Checked(kept, sorted(found, key=lambda o: o.check != NO_QUARANTINED_ROWS), [*beside, _quarantine(step, quarantine_key, refused)])


def _with_calls(step: StepContext, made: Produced, frame: pl.DataFrame, table: Table, found: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of a table, with what was wrong with the calls that made it in place of what they hide."""
    misplaced = misplaced_outcome(made, table, dict(step.windows))
    emptied = emptied_outcome(step, frame, table) if made.whole_range else None
    worse = {outcome.check: outcome for outcome in (misplaced, emptied) if outcome is not None}
    return [worse.get(outcome.check, outcome) if outcome.passed else outcome for outcome in found]


def _quarantine(step: StepContext, key: str, refused: pl.DataFrame) -> CompanionWrite:
    parts = [Partition(name, window) for name, window in step.windows]
    partitioned = step.node.partitions is not None
    shown = {name: _of_partition(refused.filter(pl.col("partition") == name)) for name, _ in step.windows}
    return CompanionWrite(TableWrite(key, refused, parts, TIME if partitioned else None, KEY, ORIGIN_COLUMNS), shown)


def _of_partition(rows: pl.DataFrame) -> dict[str, Any]:
    return {
        "dagster/row_count": rows.height,
        "by reason": markdown([{"reason": reason, "rows": count} for reason, count in count_reasons(rows)]),
        "preview": markdown(rows.select("row", "column", "reason").head(PREVIEW).to_dicts()),
    }


def _limits(step: StepContext, table: Table, key: str, frame: pl.DataFrame) -> tuple[tuple[Limit, ...], list[CompanionWrite]]:
    """Return the limits that hold, and the table of those that are learnt now."""
    quality = table.quality
    if quality is None or quality.learn_from is None:
        return (quality.declared if quality else ()), []
    windows = reference_windows(quality, table, step.node.key)
    writing = {name for name, _ in step.windows}
    stored = _stored(step, key, quality)
    if stored is not None and not any(name in writing for name, _ in windows):
        return limits_from_table(stored), []
    recorded = step.stores.lake.records(step.node.key, snapshot=step.snapshot)
    missing = [name for name, _ in windows if name not in writing and name not in recorded]
    if missing:
        ready = len(windows) - len(missing)
        step.context.log.info(f"'{step.node.key}' has {ready} of the {len(windows)} partitions that its quality limits are learnt from")
        return quality.declared, []
    rows = _reference_rows(step, table, frame, windows, writing)
    ignoring = (*table.key, *(c for c in (table.event_timestamp, table.created_timestamp) if c), *(known for _, known in table.known_at))
    limits = learn_limits(quality, rows, table.event_timestamp, windows, ignoring=ignoring)
    shown = {"": {"limits": markdown([{"rule": x.rule, "column": x.column, "limit": x.text} for x in limits]), "margin": quality.margin}}
    return limits, [CompanionWrite(TableWrite(key, limits_to_table(limits, quality), [Partition("")]), shown)]


def reference_windows(quality: Quality, table: Table, key: str) -> list[tuple[str, TimeWindow | None]]:
    """Return the partitions that the limits of a table are learnt from; ``key`` names it."""
    every = all_keys(table.partitions)
    said = quality.learn_from
    chosen = every[:said] if isinstance(said, int) else _between(table, said)
    if not chosen:
        raise DefinitionError(
            f"'{key}' learns its quality limits from {said}, where it has no partition",
            hint=f"its partitions are {every[0]} to {every[-1]}",
        )
    return [(name, window_of(table.partitions, name)) for name in chosen]


def _between(table: Table, said: tuple[str, str] | None) -> Sequence[str]:
    """Return the partitions from the first that is named up to the second, by time; by their text where one is no partition key."""
    every = all_keys(table.partitions)
    if said is None:
        return []
    try:
        first, last = (window_of(table.partitions, key) for key in said)
    except (ValueError, dg.DagsterError):  # e.g. a day where the partitions are hours
        return [name for name in every if said[0] <= name < said[1]]
    if first is None or last is None:
        return []
    spans = [(name, window_of(table.partitions, name)) for name in every]
    return [name for name, span in spans if span is not None and first.start <= span.start < last.start]


def _stored(step: StepContext, key: str, quality: Quality) -> pl.DataFrame | None:
    try:
        rows = step.stores.lake.read(key, snapshot=step.snapshot)
    except LakeError:
        return None
    return rows if rows["declaration"].unique().to_list() == [hash_declaration(quality)] else None


def _reference_rows(step: StepContext, table: Table, frame: pl.DataFrame, windows: Windows, writing: set[str]) -> pl.DataFrame:
    """Return the rows of the reference period: those that are about to be written, and those that the lake holds."""
    column = pl.col(table.event_timestamp or "")
    frames = []
    for name, window in windows:
        if window is None:
            continue
        if name in writing:
            frames.append(frame.filter(column.is_between(window.start, window.end, closed="left")))
        else:
            read = step.stores.lake.read(step.node.key, window=window, event_timestamp=table.event_timestamp, snapshot=step.snapshot)
            frames.append(read)
    return pl.concat(frames, how="diagonal_relaxed")
