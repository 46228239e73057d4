"""Make and commit the partitions of a backfill in chunks: a killed run loses one chunk, not the whole backfill."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import polars as pl

from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.tables.quality import CheckedTable, list_reference_windows
from mlops_assets.orchestrate.tables.tables import (
    build_check_results,
    build_refusal_error,
    make_and_commit,
    materialize_result,
    publish_table,
)
from mlops_assets.orchestrate.tables.unrecorded import merge_unrecorded
from mlops_assets.stores.lake.column_types import ColumnTypeError
from mlops_assets.stores.lake.protocol import Commit
from mlops_assets.values.dataset import Table

CHUNK_SIZE = 31  # partitions in one transaction, unless MAX_CHUNKS needs larger chunks: a month of days
MAX_CHUNKS = 100  # transactions of equal size in one run, however many partitions it has


@dataclass(frozen=True)
class ChunkPlan:
    """How to make the partitions of a table chunk by chunk.

    Parameters
    ----------
    rules
        Key, times and quality of the table.
    make
        A function that makes and checks the rows of the step's partitions.
    read
        A function that reads and checks partitions that the lake already holds.
    describe
        A function that returns metadata of the rows in addition to the metadata that every table has.
    is_divisible
        Whether the run may be split into chunks.
    is_repeatable
        Whether undamaged partitions with a record of the current inputs and definition may be reused.
    """

    rules: Table
    make: Callable[[StepContext], CheckedTable]
    read: Callable[[StepContext], CheckedTable]
    describe: Callable[[StepContext, pl.DataFrame], Mapping[str, Any]]
    is_divisible: bool
    is_repeatable: bool = True


@dataclass
class _ChunkTotal:
    """The rows and commits of the chunks so far; ``reused`` of these chunks were committed by an earlier run."""

    checked: list[CheckedTable] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    reused: int = 0

    @property
    def partition_count(self) -> int:
        return sum(len(commit.records) for commit in self.commits)

    def merge_outcomes(self, *more: Outcome) -> list[Outcome]:
        """Return one outcome of each check over all chunks and ``more``: the first failure, else the last outcome."""
        outcomes = [outcome for chunk in self.checked for outcome in chunk.outcomes] + list(more)
        names = dict.fromkeys(outcome.check for outcome in outcomes)
        return [_worst_outcome([outcome for outcome in outcomes if outcome.check == name]) for name in names]

    def merge_tables(self, chunk_count: int) -> CheckedTable:
        """Return the rows, outcomes and metadata of all chunks; a later chunk's metadata replaces an earlier one's of the same name."""
        metadata = {name: value for chunk in self.checked for name, value in chunk.metadata.items()}
        metadata |= merge_unrecorded(chunk.metadata for chunk in self.checked)
        summary = f"{chunk_count - self.reused} made, {self.reused} reused"
        return CheckedTable(
            pl.concat([chunk.frame for chunk in self.checked], how="vertical_relaxed"),
            self.merge_outcomes(),
            {**metadata, "chunks": summary},
        )

    def merge_commits(self, keys: Sequence[str]) -> Commit:
        """Return all chunks as one commit of the last snapshot, with its records in the order of ``keys``."""
        records = {record.partition: record for commit in self.commits for record in commit.records}
        changed = {partition for commit in self.commits for partition in commit.changed}
        columns = tuple(dict.fromkeys(text for commit in self.commits for text in commit.columns))
        return Commit(self.commits[-1].snapshot, tuple(records[key] for key in keys), tuple(key for key in keys if key in changed), columns)


def publish_in_chunks(step: StepContext, chunks: ChunkPlan) -> Iterator[object]:
    """Make a table as :func:`mlops_assets.orchestrate.tables.tables.publish_table` does, but commit its partitions chunk by chunk.

    Each chunk reads the lake as it is when the chunk begins, so that the records of its partitions name the inputs that it read.
    If a column has changed its type and the run covers all recorded partitions, all of them are made in one commit instead.

    Parameters
    ----------
    step
        The step.
    chunks
        How to make its partitions.

    Raises
    ------
    DataError
        A blocking check fails on a chunk. Earlier chunks stay committed.
    ColumnTypeError
        A column has changed its type, and the lake has partitions outside of the run.
    """
    groups = _split_step(step, chunks) if step.node.partitions is not None and chunks.is_divisible else [list(step.keys)]
    if len(groups) == 1:
        yield from _publish_whole(step, chunks)
        return
    try:
        checked, commit = _make_chunks(step, chunks, groups)
    except _ChunkRefusedError as refusal:
        yield from build_check_results(step, refusal.outcomes)
        raise refusal.error from None
    except ColumnTypeError:
        if not step.stores.lake.records(step.node.key).keys() <= set(step.keys):
            raise
        step.context.log.warning(
            f"{step.node.key}: the type of a column has changed, so all {len(step.keys)} partitions are made in one commit"
        )
        yield from _publish_whole(replace(step, selected_keys=tuple(step.keys)), chunks)
        return
    yield materialize_result(step, checked, commit)


class _ChunkRefusedError(Exception):
    """Raised when a blocking check fails on a chunk; it has the outcomes of all chunks so far."""

    def __init__(self, outcomes: Sequence[Outcome], error: DataError) -> None:
        super().__init__(str(error))
        self.outcomes, self.error = outcomes, error


def _publish_whole(step: StepContext, chunks: ChunkPlan) -> Iterator[object]:
    """Make and commit all partitions in one transaction, which may change the column types of the table."""
    yield from publish_table(step, chunks.rules, lambda: _add_description(step, chunks, chunks.make(step)))


def _make_chunks(step: StepContext, chunks: ChunkPlan, groups: Sequence[Sequence[str]]) -> tuple[CheckedTable, Commit]:
    """Make and commit one chunk after the other, or reuse recorded ones; return the merged rows and outcomes, and the merged commit."""
    total = _ChunkTotal()
    for keys in groups:
        chunk = replace(step, selected_keys=tuple(keys))
        stored = _read_recorded(chunk, chunks)
        checked, commit = stored or make_and_commit(chunk, chunks.rules, partial(chunks.make, chunk))
        if commit is None or any(o.blocking and not o.passed for o in checked.outcomes):
            raise _ChunkRefusedError(
                total.merge_outcomes(*checked.outcomes), _build_chunk_error(chunk, checked, total.partition_count, len(step.keys))
            )
        total.checked.append(checked)
        total.commits.append(commit)
        total.reused += stored is not None
        note = "; these were reused: an earlier run made them from the same inputs" if stored else ""
        step.context.log.info(f"backfill of {step.node.key}: {total.partition_count} of {len(step.keys)} partitions{note}")
    return _add_description(step, chunks, total.merge_tables(len(groups))), total.merge_commits(step.keys)


def _add_description(step: StepContext, chunks: ChunkPlan, checked: CheckedTable) -> CheckedTable:
    return replace(checked, metadata={**checked.metadata, **chunks.describe(step, checked.frame)})


def _split_step(step: StepContext, chunks: ChunkPlan) -> list[list[str]]:
    quality = chunks.rules.quality
    first = {name for name, _ in list_reference_windows(quality, chunks.rules, step.node.key)} if quality and quality.learn_from else set()
    return split_keys(step.keys, first)


def split_keys(keys: Sequence[str], first: Collection[str] = ()) -> list[list[str]]:
    """Split partitions into chunks of consecutive partitions.

    Parameters
    ----------
    keys
        Consecutive partitions, oldest first.
    first
        Partitions that form one chunk of any size before the others: quality limits are learned from them.
    """
    size = max(CHUNK_SIZE, -(-len(keys) // MAX_CHUNKS))
    result: list[list[str]] = []
    for is_first, group in groupby(keys, key=lambda key: key in first):
        run = list(group)
        if is_first:
            result.insert(0, run)
        else:
            result.extend(run[start : start + size] for start in range(0, len(run), size))
    return result


def _read_recorded(step: StepContext, chunks: ChunkPlan) -> tuple[CheckedTable, Commit] | None:
    """Return the stored rows and the records of a chunk that may be reused; None when it must be made, as with a damaged partition."""
    recorded = step.stores.lake.records(step.node.key, snapshot=step.snapshot) if chunks.is_repeatable else {}
    sound = {key: record for key, record in recorded.items() if not record.damaged}
    if not all(p.inputs and p.key in sound and sound[p.key].inputs == p.inputs for p in step.partitions):
        return None
    return chunks.read(step), Commit(step.snapshot, tuple(recorded[key] for key in step.keys), ())


def _build_chunk_error(step: StepContext, checked: CheckedTable, committed: int, total: int) -> DataError:
    error = build_refusal_error(step, checked.outcomes)
    return DataError(f"{error.message}. {committed} of the {total} partitions of this run are committed", hint=error.hint)


def _worst_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    return next((outcome for outcome in outcomes if not outcome.passed), outcomes[-1])
