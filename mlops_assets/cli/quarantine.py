"""``mlops quarantine``: list, show and replay the rows in quarantine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import console, file_option, json_option, load, print_rows
from mlops_assets.errors import DefinitionError, LakeError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl
    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.values.dataset import Dataset

partition_option = click.option("--partition", help="One partition  [default: all]")


@click.group()
def quarantine() -> None:
    """List, show and replay the rows that broke a rule."""


@quarantine.command("list")
@file_option
@json_option
def list_quarantines(file: str, json_file: str | None) -> None:
    """List the number of rows in quarantine by dataset, partition and reason.

    Example: mlops quarantine list --json -
    """
    project = load(file)
    rows = [row for dataset in _list_datasets(project) for row in _count_reasons(dataset.name, _read_rows(project, dataset, None))]
    print_rows("quarantine", rows, json_file)


@quarantine.command("show")
@click.argument("name")
@partition_option
@file_option
@json_option
def show(name: str, partition: str | None, file: str, json_file: str | None) -> None:
    """Show the quarantined rows of a dataset, each with its reason.

    Example: mlops quarantine show flights --partition 2013-01-05
    """
    project = load(file)
    rows = _read_rows(project, _find_dataset(project, name), partition).to_dicts()
    columns = ("partition", "reason", "row", "run_id", "quarantined_at")
    shown = [{column: row[column] for column in columns} for row in rows]
    print_rows(f"quarantine of {name}", shown, json_file)


@quarantine.command("replay")
@click.argument("name")
@partition_option
@file_option
def replay(name: str, partition: str | None, file: str) -> None:
    """Materialise the partitions with quarantined rows again; exit code 1 when a run failed or rows are left.

    Correct the function, the schema or the source first.

    Example: mlops quarantine replay flights
    """
    project, out = load(file), console()
    dataset = _find_dataset(project, name)
    before = _read_rows(project, dataset, partition)
    failed = [span for span in _group_partitions(dataset, before) if not _rerun(project, dataset, span, out)]
    remaining = _read_rows(project, dataset, partition)
    out.print(f"{name}: {before.height} row(s) were set aside, {remaining.height} are left", highlight=False, markup=False)
    for row in _count_reasons(name, remaining):
        out.print(f"  {row['partition']}  {row['reason']}: {row['rows']}", highlight=False, markup=False)
    sys.exit(1 if failed or remaining.height else 0)


def _rerun(project: LoadedProject, dataset: Dataset[..., Any], span: str | None, out: Console) -> bool:
    from mlops_assets.cli.running import run_assets
    from mlops_assets.cli.summary import print_summary

    finished = run_assets(project, select=f'key:"{dataset.key}"', partitions=span, as_of=None, console=out)
    if not finished.result.success:
        print_summary(project, finished, out)
    return bool(finished.result.success)


def _group_partitions(dataset: Dataset[..., Any], rows: pl.DataFrame) -> list[str | None]:
    """Return the ranges of consecutive partitions with rows, each for one run; ``[None]`` for rows of a table without partitions."""
    if rows.is_empty():
        return []
    if dataset.table.partitions is None:
        return [None]
    keys = list(dataset.table.partitions.get_partition_keys())
    numbers = sorted({keys.index(key) for key in rows["partition"].unique() if key in keys})
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [f"{keys[first]}...{keys[last]}" for first, last in ranges]


def _list_datasets(project: LoadedProject) -> list[Dataset[..., Any]]:
    from mlops_assets.values.dataset import Dataset

    return [d for part in project.parts for d in part.project.select(Dataset) if d.table.quarantine is not None]


def _find_dataset(project: LoadedProject, name: str) -> Dataset[..., Any]:
    known = {d.name: d for d in _list_datasets(project)}
    if name not in known:
        raise DefinitionError(
            f"there is no dataset '{name}' with a quarantine",
            hint=suggest_name(name, known) + f"there are {', '.join(known) or 'none: set quarantine=True in @ml.dataset'}",
        )
    return known[name]


def _read_rows(project: LoadedProject, dataset: Dataset[..., Any], partition: str | None) -> pl.DataFrame:
    """Return the quarantined rows of one or all partitions, sorted by partition and row."""
    import polars as pl

    from mlops_assets.compute.tables.quarantine import SCHEMA

    try:
        rows = project.stores.lake.read(dataset.quarantine_key).sort("partition", "row")
    except LakeError:
        rows = SCHEMA.to_frame()  # nothing was written yet
    if partition is None:
        return rows
    chosen = rows.filter(pl.col("partition") == partition)
    if chosen.is_empty():  # rows of a partition that the declaration no longer has are shown
        _check_partition(dataset, partition)
    return chosen


def _check_partition(dataset: Dataset[..., Any], partition: str) -> None:
    definition = dataset.table.partitions
    keys = definition.get_partition_keys() if definition else []
    if partition not in keys:
        advice = (
            f"there are {keys[0]} to {keys[-1]}" if keys else "it has none yet" if definition else "it is not partitioned: omit --partition"
        )
        raise DefinitionError(f"'{dataset.key}' has no partition '{partition}'", hint=suggest_name(partition, keys) + advice)


def _count_reasons(name: str, rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    import polars as pl

    from mlops_assets.compute.tables.quarantine import count_reasons

    partitions: Sequence[str] = rows["partition"].unique().sort().to_list()
    for partition in partitions:
        for reason, count in count_reasons(rows.filter(pl.col("partition") == partition)):
            yield {"dataset": name, "partition": partition, "reason": reason, "rows": count}
