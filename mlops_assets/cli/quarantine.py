"""``mlops quarantine``: rows that were set aside, and trying them again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import console, file_option, json_option, load, write_json
from mlops_assets.errors import DefinitionError, LakeError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl
    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.values.dataset import Dataset

partition_option = click.option("--partition", help="One partition; all when left out.")


@click.group()
def quarantine() -> None:
    """Rows that broke a rule and were set aside."""


@quarantine.command("list")
@file_option
@json_option
def list_quarantines(file: str, json_file: str | None) -> None:
    """Show how many rows each dataset has set aside, and why.

    Example: mlops quarantine list --json -
    """
    from mlops_assets.cli.status import table

    project = load(file)
    rows = [row for dataset in _datasets(project) for row in _counts(dataset.name, _rows(project, dataset, None))]
    write_json(rows, json_file) if json_file else console().print(table("quarantine", rows))


@quarantine.command("show")
@click.argument("name")
@partition_option
@file_option
@json_option
def show(name: str, partition: str | None, file: str, json_file: str | None) -> None:
    """Show the rows of a dataset that were set aside, with the reason of each.

    Example: mlops quarantine show flights --partition 2013-01-05
    """
    from mlops_assets.cli.status import table

    project = load(file)
    found = _rows(project, _dataset(project, name), partition).to_dicts()
    columns = ("partition", "reason", "row", "run_id", "quarantined_at")
    shown = [{column: row[column] for column in columns} for row in found]
    write_json(shown, json_file) if json_file else console().print(table(f"quarantine of {name}", shown))


@quarantine.command("replay")
@click.argument("name")
@partition_option
@file_option
def replay(name: str, partition: str | None, file: str) -> None:
    """Make the partitions with rows set aside again, after the function, the schema or the source was mended; fails while rows are left.

    Example: mlops quarantine replay flights
    """
    project, out = load(file), console()
    dataset = _dataset(project, name)
    before = _rows(project, dataset, partition)
    failed = [span for span in _spans(dataset, before) if not _again(project, dataset, span, out)]
    left = _rows(project, dataset, partition)
    out.print(f"{name}: {before.height} row(s) were set aside, {left.height} are left", highlight=False)
    for row in _counts(name, left):
        out.print(f"  {row['partition']}  {row['reason']}: {row['rows']}", highlight=False, markup=False)
    sys.exit(1 if failed or left.height else 0)


def _again(project: LoadedProject, dataset: Dataset[..., Any], span: str | None, out: Console) -> bool:
    from mlops_assets.cli.running import run
    from mlops_assets.cli.summary import show as summary

    finished = run(project, select=f'key:"{dataset.key}"', partitions=span, as_of=None, console=out)
    if not finished.result.success:
        summary(project, finished, out)
    return bool(finished.result.success)


def _spans(dataset: Dataset[..., Any], rows: pl.DataFrame) -> list[str | None]:
    """Return the partitions concerned, neighbours as one range: each range is one run."""
    if rows.is_empty():
        return []
    if dataset.table.partitions is None:
        return [None]
    every = list(dataset.table.partitions.get_partition_keys())
    numbers = sorted({every.index(key) for key in rows["partition"].unique() if key in every})
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [f"{every[first]}...{every[last]}" for first, last in ranges]


def _datasets(project: LoadedProject) -> list[Dataset[..., Any]]:
    from mlops_assets.values.dataset import Dataset

    return [d for part in project.parts for d in part.project.every(Dataset) if d.table.quarantine is not None]


def _dataset(project: LoadedProject, name: str) -> Dataset[..., Any]:
    known = {d.name: d for d in _datasets(project)}
    if name not in known:
        raise DefinitionError(
            f"there is no dataset '{name}' with a quarantine",
            hint=nearest(name, known) + f"there are {', '.join(known) or 'none: say quarantine=True in @ml.dataset'}",
        )
    return known[name]


def _rows(project: LoadedProject, dataset: Dataset[..., Any], partition: str | None) -> pl.DataFrame:
    import polars as pl

    from mlops_assets.compute.tables.quarantine import SCHEMA

    try:
        rows = project.stores.lake.read(dataset.quarantine_key).sort("partition", "row")
    except LakeError:
        return SCHEMA.to_frame()  # nothing was written yet
    return rows if partition is None else rows.filter(pl.col("partition") == partition)


def _counts(name: str, rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    import polars as pl

    from mlops_assets.compute.tables.quarantine import count_reasons

    partitions: Sequence[str] = rows["partition"].unique().sort().to_list()
    for partition in partitions:
        for reason, count in count_reasons(rows.filter(pl.col("partition") == partition)):
            yield {"dataset": name, "partition": partition, "reason": reason, "rows": count}
