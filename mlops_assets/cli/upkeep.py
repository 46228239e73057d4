"""``mlops gc`` and ``mlops features erase``: delete unneeded data, and erase an entity from all stores."""

from __future__ import annotations

import getpass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import file_option, json_option, load, write_json
from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject


@click.command("erase")
@click.option("--entity", required=True, metavar="KEY=VALUE[,KEY=VALUE]", help="Keys of the entity: its rows have all of these values.")
@click.option(
    "--view",
    "views",
    multiple=True,
    metavar="NAME",
    help="Erase only from this feature view and its sources; leave prediction logs untouched. Repeatable.",
)
@click.option("--reason", required=True, help="The reason, which the log of erasures records.")
@click.option("--yes", is_flag=True, help="Erase; without this option the command only shows what it would erase.")
@click.option("--keep-key", is_flag=True, help="Record the entity's key in the log of erasures instead of its hash.")
@file_option
@json_option
def erase(entity: str, views: tuple[str, ...], reason: str, yes: bool, keep_key: bool, file: str, json_file: str | None) -> None:  # noqa: FBT001, PLR0913  (click's way)
    """Erase an entity: its rows in every table and earlier state of the lake, online, in layouts and in logs.

    Example: mlops features erase --entity customer_id=42 --reason "request 2024-117" --yes
    """
    from mlops_assets.cli.project import open_reconciled_instance
    from mlops_assets.orchestrate.upkeep import erasure

    project = load(file)
    request = erasure.ErasureRequest([part.project for part in project.parts], project.stores, _parse_entity(entity), views)
    if yes:
        instance = open_reconciled_instance(project.platform)
        done = erasure.erase(request, actor=getpass.getuser(), reason=reason, keep_key=keep_key, instance=instance)
    else:
        done = erasure.plan_erasure(request)
    if json_file:
        write_json({"done": yes, **done.facts}, json_file)
        return
    for line in _format_erasure(done, yes=yes):
        click.echo(line)


def _parse_entity(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise DefinitionError(
            f"--entity '{wrong[0]}' is not KEY=VALUE", hint="e.g. --entity customer_id=42, or --entity carrier=UA,origin=EWR"
        )
    return {name.strip(): value for name, _, value in pairs}


def _format_erasure(report: Any, *, yes: bool) -> list[str]:  # noqa: ANN401  (imported inside the command)
    verb = "erased" if yes else "to erase"
    lists = [
        ("expired states of the lake", report.states),
        ("model versions that can no longer be reproduced", report.versions),
        ("earlier versions of views that can no longer be read", report.view_versions),
        ("views examined online", report.online),
        ("rebuilt by automation, as they do not have the key", report.stale_tables),
        ("columns that may hold the entity under another name; erase it there too, with --entity COLUMN=VALUE", report.other_names),
    ]
    return [
        *(f"{table}: {count} row(s) {verb}" for table, count in report.rows.items()),
        *(f"{title}: {', '.join(map(str, values))}" for title, values in lists if values),
        f"logs: {report.predictions} prediction(s) and {report.pushed} pushed row(s) {verb}",
        "erased" if yes else "nothing was changed; pass --yes to erase",
    ]


def find_garbage(project: LoadedProject, hours: float) -> dict[str, Any]:
    """Return the number and size of the artifacts that upkeep would remove, and each one's size and time of storage."""
    from mlops_assets.stores.platform.garbage import collect_garbage

    garbage = collect_garbage(project.stores, older_than=timedelta(hours=hours), dry_run=True)
    return {
        "artifacts that would be removed": len(garbage.removed),
        "bytes of artifacts": sum(file.size for file in garbage.removed),
        "artifacts left": garbage.remaining,
        **{f"artifact {file.name}": f"{file.size} bytes, stored {file.at:%Y-%m-%d %H:%M}" for file in garbage.removed},
    }


def run_gc(project: LoadedProject, hours: float, *, shared: bool = False) -> dict[str, Any]:
    """Run the upkeep of the lake and of the other stores, and return what it did."""
    from mlops_assets.orchestrate.upkeep.upkeep import run_upkeep

    report = run_upkeep([part.project for part in project.parts], project.stores, older_than=timedelta(hours=hours), shared=shared)
    return {**report.figures, "pinned by": {str(number): list(users) for number, users in report.pinned.items()}}
