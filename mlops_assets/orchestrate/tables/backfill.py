"""A run over many partitions, made and committed in chunks: a kill costs the chunk that it met, not the backfill."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import polars as pl

from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.tables.quality import CheckedTable, reference_windows
from mlops_assets.orchestrate.tables.tables import check_results, make_and_commit, materialize_result, publish_table, refusal_error
from mlops_assets.orchestrate.tables.unrecorded import merge_unrecorded
from mlops_assets.stores.lake.column_types import ColumnTypeError
from mlops_assets.stores.lake.protocol import Commit
from mlops_assets.values.dataset import Table

CHUNK_SIZE = 31  # partitions in one transaction: a month of days
MAX_CHUNKS = 100  # transactions in one run, however many partitions it has


@dataclass(frozen=True)
class ChunkPlan:
    """How the partitions of a table are made, some at a time.

    Parameters
    ----------
    rules
        Key, times and quality of the table.
    make
        Makes the rows of the partitions of a step.
    read
        Reads and verifies those that the lake holds already.
    describe
        Returns what the UI shows of rows, besides what it shows of every table.
    is_divisible
        Whether the run may be divided at all.
    is_repeatable
        Whether partitions that are recorded as made from the current inputs and definition need not be made again.
    """

    rules: Table
    make: Callable[[StepContext], CheckedTable]
    read: Callable[[StepContext], CheckedTable]
    describe: Callable[[StepContext, pl.DataFrame], Mapping[str, Any]]
    is_divisible: bool
    is_repeatable: bool = True


@dataclass
class _ChunkTotal:
    """The chunks that are committed so far, taken together."""

    made: list[CheckedTable] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    passed_over: int = 0

    @property
    def partitions(self) -> int:
        return sum(len(commit.records) for commit in self.commits)

    def outcomes(self, *more: Outcome) -> list[Outcome]:
        """Return one outcome of each check: the first that failed, else the last."""
        found = [outcome for made in self.made for outcome in made.outcomes] + list(more)
        names = dict.fromkeys(outcome.check for outcome in found)
        return [_worst_outcome([outcome for outcome in found if outcome.check == name]) for name in names]

    def merge(self, chunks: int) -> CheckedTable:
        """Return the whole as if it had been made at once."""
        metadata = {name: value for made in self.made for name, value in made.metadata.items()}
        metadata |= merge_unrecorded(made.metadata for made in self.made)
        how = f"{chunks - self.passed_over} made, {self.passed_over} passed over"
        return CheckedTable(
            pl.concat([made.frame for made in self.made], how="vertical_relaxed"), self.outcomes(), {**metadata, "chunks": how}
        )

    def commit(self, keys: Sequence[str]) -> Commit:
        """Return what was committed, in the order of the run's partitions."""
        records = {record.partition: record for commit in self.commits for record in commit.records}
        changed = {partition for commit in self.commits for partition in commit.changed}
        columns = tuple(dict.fromkeys(text for commit in self.commits for text in commit.columns))
        return Commit(self.commits[-1].snapshot, tuple(records[key] for key in keys), tuple(key for key in keys if key in changed), columns)


def publish_in_chunks(step: StepContext, chunks: ChunkPlan) -> Iterator[object]:
    """Make a table as :func:`mlops_assets.orchestrate.tables.tables.publish_table` does, but commit its partitions chunk by chunk.

    Each chunk reads the lake as it is when the chunk begins, so that what is recorded of a partition is what it was made from.

    Parameters
    ----------
    step
        The step.
    chunks
        How its partitions are made.
    """
    groups = _split_step(step, chunks) if step.node.partitions is not None and chunks.is_divisible else [list(step.keys)]
    if len(groups) == 1:
        yield from _publish_whole(step, chunks)
        return
    try:
        made, commit = _make_chunks(step, chunks, groups)
    except _ChunkRefusedError as refused:
        yield from check_results(step, refused.outcomes)
        raise refused.error from None
    except ColumnTypeError:
        if not step.stores.lake.records(step.node.key).keys() <= set(step.keys):
            raise
        step.context.log.warning(f"{step.node.key}: a column has another type, so all {len(step.keys)} partitions are made at once")
        yield from _publish_whole(replace(step, selected_keys=tuple(step.keys)), chunks)
        return
    yield materialize_result(step, made, commit)


class _ChunkRefusedError(Exception):
    """A check refused a chunk."""

    def __init__(self, outcomes: Sequence[Outcome], error: DataError) -> None:
        super().__init__(str(error))
        self.outcomes, self.error = outcomes, error


def _publish_whole(step: StepContext, chunks: ChunkPlan) -> Iterator[object]:
    """Make all partitions in one transaction, which may replace the types of a table."""
    yield from publish_table(step, chunks.rules, lambda: _add_description(step, chunks, chunks.make(step)))


def _make_chunks(step: StepContext, chunks: ChunkPlan, groups: Sequence[Sequence[str]]) -> tuple[CheckedTable, Commit]:
    """Make and commit one chunk after the other; return what they come to."""
    total = _ChunkTotal()
    for keys in groups:
        part = replace(step, selected_keys=tuple(keys))
        kept = _read_recorded(part, chunks)
        made, commit = kept or make_and_commit(part, chunks.rules, partial(chunks.make, part))
        if commit is None or any(o.blocking and not o.passed for o in made.outcomes):
            raise _ChunkRefusedError(total.outcomes(*made.outcomes), _stop_error(part, made, total.partitions, len(step.keys)))
        total.made.append(made)
        total.commits.append(commit)
        total.passed_over += kept is not None
        over = "; these were made before, from the same" if kept else ""
        step.context.log.info(f"backfill of {step.node.key}: {total.partitions} of {len(step.keys)} partitions{over}")
    return _add_description(step, chunks, total.merge(len(groups))), total.commit(step.keys)


def _add_description(step: StepContext, chunks: ChunkPlan, made: CheckedTable) -> CheckedTable:
    return replace(made, metadata={**made.metadata, **chunks.describe(step, made.frame)})


def _split_step(step: StepContext, chunks: ChunkPlan) -> list[list[str]]:
    quality = chunks.rules.quality
    first = {name for name, _ in reference_windows(quality, chunks.rules, step.node.key)} if quality and quality.learn_from else set()
    return split_keys(step.keys, first)


def split_keys(keys: Sequence[str], first: Collection[str] = ()) -> list[list[str]]:
    """Return partitions in chunks of neighbours.

    Parameters
    ----------
    keys
        Neighbours, oldest first.
    first
        Partitions that stay together and come before the others: limits of quality are learnt from all of them, and hold for the rest.
    """
    size = max(CHUNK_SIZE, -(-len(keys) // MAX_CHUNKS))
    result: list[list[str]] = []
    for together, group in groupby(keys, key=lambda key: key in first):
        run = list(group)
        if together:
            result.insert(0, run)
        else:
            result.extend(run[at : at + size] for at in range(0, len(run), size))
    return result


def _read_recorded(step: StepContext, chunks: ChunkPlan) -> tuple[CheckedTable, Commit] | None:
    """Return what the lake holds of a chunk that need not be made again."""
    recorded = step.stores.lake.records(step.node.key, snapshot=step.snapshot) if chunks.is_repeatable else {}
    if not all(part.inputs and part.key in recorded and recorded[part.key].inputs == part.inputs for part in step.partitions):
        return None
    return chunks.read(step), Commit(step.snapshot, tuple(recorded[key] for key in step.keys), ())


def _stop_error(step: StepContext, made: CheckedTable, before: int, of: int) -> DataError:
    error = refusal_error(step, made.outcomes)
    return DataError(f"{error.message}. {before} of the {of} partitions of this run are committed", hint=error.hint)


def _worst_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    return next((outcome for outcome in outcomes if not outcome.passed), outcomes[-1])
