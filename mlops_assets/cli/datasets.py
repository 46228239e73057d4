"""``mlops datasets``: list, show and drop the datasets of the lake."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import file_option, json_option, load, print_facts, print_rows
from mlops_assets.errors import DefinitionError, LakeError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.stores.lake.protocol import PartitionRecord
    from mlops_assets.values.dataset import Dataset

_PREFIX = "dataset/"
_MAX_PINS = 10  # users of earlier states that are listed


@click.group()
def datasets() -> None:
    """List, show and drop the datasets of the lake."""


@datasets.command("list")
@file_option
@json_option
def list_datasets(file: str, json_file: str | None) -> None:
    """List datasets with rows, partitions, the time of the last write, and whether the project declares them.

    Example: mlops datasets list --json -
    """
    project = load(file)
    print_rows("datasets", [_summarise(project, name) for name in _list_names(project)], json_file)


@datasets.command("show")
@click.argument("name")
@file_option
@json_option
def show_dataset(name: str, file: str, json_file: str | None) -> None:
    """Show one dataset: columns with types, partitions, and the versions that need earlier states.

    Example: mlops datasets show flights
    """
    print_facts(_describe(load(file), name), json_file)


@datasets.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Drop the dataset without asking.")
@file_option
def drop_dataset(name: str, file: str, *, yes: bool) -> None:
    """Drop the table and the records of a dataset, which can then be materialised with other types.

    Earlier states of the lake stay: versions that were trained on them can still be reproduced. `mlops gc` deletes unneeded states.

    Example: mlops datasets drop flights --yes
    """
    from mlops_assets.cli.running import lock_home
    from mlops_assets.orchestrate.core.partitions import list_partition_keys

    project = load(file)
    key, records = _PREFIX + name, _read_records(project, name)
    rows, pinned = sum(record.rows for record in records.values()), _find_pins(project, name)
    note = f"; earlier states stay readable for {', '.join(pinned)}" if pinned else ""
    if not yes and not click.confirm(f"drop {key} with {rows} rows in {len(records)} partition(s){note}?"):
        click.echo("nothing was dropped")
        sys.exit(1)
    with lock_home(Path(project.platform.home)):
        project.stores.lake.drop(key)
    click.echo(f"dropped {key}: {rows} rows in {len(records)} partition(s){note}")
    if (declared := _declared_datasets(project).get(name)) is not None:
        partitions = [partition for partition in list_partition_keys(declared.table.partitions) if partition and partition in records]
        chosen = f" --partitions {shlex.quote('...'.join(dict.fromkeys((partitions[0], partitions[-1]))))}" if partitions else ""
        click.echo(f"next: mlops run --select 'key:\"{key}\"'{chosen}")


def _list_names(project: LoadedProject) -> list[str]:
    stored = {name.removeprefix(_PREFIX) for name in project.stores.lake.tables() if name.startswith(_PREFIX)}
    return sorted(stored | set(_declared_datasets(project)))


def _declared_datasets(project: LoadedProject) -> Mapping[str, Dataset[..., Any]]:
    from mlops_assets.values.dataset import Dataset

    return {dataset.name: dataset for part in project.parts for dataset in part.project.select(Dataset)}


def _read_records(project: LoadedProject, name: str) -> Mapping[str, PartitionRecord]:
    """Return partition → record of a dataset; refuse a dataset that is unknown or was never written."""
    if name not in (known := _list_names(project)):
        raise DefinitionError(f"there is no dataset '{name}'", hint=suggest_name(name, known) + f"there are {', '.join(known) or 'none'}")
    records = project.stores.lake.records(_PREFIX + name)
    if not records:
        raise LakeError(f"'{_PREFIX}{name}' is empty", hint=f"materialise it: mlops run --select 'key:\"{_PREFIX}{name}\"'")
    return records


def _summarise(project: LoadedProject, name: str) -> dict[str, Any]:
    records = project.stores.lake.records(_PREFIX + name)
    return {
        "dataset": name,
        "rows": sum(record.rows for record in records.values()),
        "partitions": len(records),
        "last written": max((f"{record.recorded_at:%Y-%m-%d %H:%M}" for record in records.values()), default="never"),
        "declared": "yes" if name in _declared_datasets(project) else "no",
    }


def _describe(project: LoadedProject, name: str) -> dict[str, Any]:
    records, declared = _read_records(project, name), _declared_datasets(project).get(name)
    pinned = _find_pins(project, name)
    facts = {
        **{key: value for key, value in _summarise(project, name).items() if key != "dataset"},
        "key": ", ".join(declared.table.key) if declared else "",
        "event timestamp": (declared.table.event_timestamp or "") if declared else "",
        "earlier states needed by": ", ".join(pinned),
    }
    return {
        "dataset": facts,
        "columns": [{"column": column, "type": str(dtype)} for column, dtype in project.stores.lake.schema(_PREFIX + name).items()],
        "partitions": [
            {"partition": key, "rows": record.rows, "written": f"{record.recorded_at:%Y-%m-%d %H:%M}", "lake snapshot": record.snapshot}
            for key, record in records.items()
            if key
        ],
    }


def _find_pins(project: LoadedProject, name: str) -> list[str]:
    """Return the users of earlier states of the lake that hold the dataset: the first ten, and the number of the others."""
    from mlops_assets.stores.platform.pins import collect_pins

    lake = project.stores.lake
    users = [
        user for snapshot, pins in collect_pins(project.stores).items() if lake.schema(_PREFIX + name, snapshot=snapshot) for user in pins
    ]
    return users[:_MAX_PINS] + ([f"{len(users) - _MAX_PINS} more"] if len(users) > _MAX_PINS else [])
