"""``mlops reproduce``: train a version again from its record, and compare."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import console, file_option, json_option, load, print_rows, write_json

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.stores.registry.reproductions import Reproduction


@click.command()
@click.argument("version", metavar="MODEL@VERSION", required=False)
@click.option(
    "--env",
    type=click.Choice(["current", "locked"]),
    default="current",
    show_default=True,
    help="The installed libraries, or the recorded versions.",
)
@click.option(
    "--data",
    type=click.Choice(["recorded", "current"]),
    default="recorded",
    show_default=True,
    help="The recorded training set, or the current one.",
)
@click.option(
    "--code",
    type=click.Choice(["recorded", "current"]),
    default="recorded",
    show_default=True,
    help="The recorded code, or the project's current code.",
)
@click.option("--params", metavar="JSON", help="Parameters in place of the recorded ones.")
@click.option("--history", metavar="MODEL", help="Show earlier verdicts of this model instead.")
@file_option
@json_option
def reproduce(version: str | None, history: str | None, file: str, json_file: str | None, **asked: Any) -> None:  # noqa: ANN401
    """Train a version again from its record, in a new process, and compare: IDENTICAL, EQUIVALENT or DIFFERENT.

    Exit code 0 for the first two. With current data, current code or other parameters no verdict is recorded.

    Example: mlops reproduce lateness@7 --env locked
    """
    if (version is None) == (history is None):
        raise click.UsageError("name one version, such as lateness@7, or --history MODEL")
    project = load(file)
    if history:
        _show_history(project, history, json_file)
        return
    out = console()
    with out.status(f"training {version} again"):
        found = _reproduce(project, version or "", asked)
    if json_file:
        write_json(_facts(found), json_file)
    else:
        for line in _format_lines(found):
            out.print(line, highlight=False, soft_wrap=True, markup=False)
    sys.exit(0 if found.holds else 1)


def _reproduce(project: LoadedProject, named: str, asked: dict[str, Any]) -> Reproduction:
    from mlops_assets.cli.project import open_clean_instance
    from mlops_assets.cli.registry import find_model
    from mlops_assets.errors import RegistryError
    from mlops_assets.orchestrate.reproduction.checks import report_failure, report_reproduction
    from mlops_assets.orchestrate.reproduction.reproduction import ReproductionOptions, reproduce

    name, _, number = named.partition("@")
    _, model = find_model(project, name)
    version = _version(project, name, number or "champion")
    how = ReproductionOptions(asked["env"], asked["data"], asked["code"], _params(asked["params"]))
    with open_clean_instance(project.platform) as opened:
        try:
            found = reproduce(project.stores, version, model.function.function, how)
        except RegistryError as error:
            if how.plain:
                report_failure(opened, model, version, error)
            raise
        if how.plain:
            report_reproduction(opened, model, version, found)
    return found


def _params(text: str | None) -> dict[str, Any] | None:
    from mlops_assets.errors import DataError

    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"--params '{text}' is no JSON object", hint="""give it as --params '{"max_iter": 100}'""")
    return found


def _version(project: LoadedProject, model: str, wanted: str) -> Version:
    from mlops_assets.errors import RegistryError

    known = project.stores.registry.versions(model)
    found = [v for v in known if wanted == str(v.version) or wanted in v.aliases]
    if not found:
        there = ", ".join(str(v.version) for v in known) or "none"
        raise RegistryError(f"{model} has no version '{wanted}'", hint=f"there are {there}; `mlops models list {model}` shows them")
    return found[-1]


def _facts(found: Reproduction) -> dict[str, Any]:
    return {
        "version": f"{found.model}@{found.version}",
        "verdict": found.verdict,
        "env": found.mode,
        "field": found.field,
        "was": found.was,
        "now": found.now,
        "at": found.at.isoformat(timespec="seconds"),
        **found.facts,
    }


def _format_lines(found: Reproduction) -> list[str]:
    rest = [f"  {d['field']}: was {_shorten(d['was'])}, is {_shorten(d['now'])}" for d in found.facts["differences"]]
    first = f"first field that differs: {found.field}" if found.field else "every field is as recorded"
    largest = found.facts["largest difference of a prediction"]
    return [
        f"{found.model}@{found.version}: {found.verdict}",
        first,
        *rest[:20],
        *([f"  and {len(rest) - 20} more"] if len(rest) > 20 else []),
        f"code: {found.facts['code']}",
        f"largest difference of a probe prediction: {largest:.3g}",
    ]


def _shorten(value: Any) -> str:  # noqa: ANN401
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _show_history(project: LoadedProject, model: str, json_file: str | None) -> None:
    from mlops_assets.cli.registry import find_model
    from mlops_assets.stores.registry.reproductions import open_reproductions

    find_model(project, model)
    found = [_facts(each) for each in reversed(open_reproductions(project.platform.registry).list(model))]
    shown = ("version", "verdict", "env", "field", "was", "now", "at", "code")
    rows = found if json_file else [{name: _shorten(row[name]) for name in shown} for row in found]
    print_rows(f"reproductions of {model}", rows, json_file)
