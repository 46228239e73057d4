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
@click.argument("version", metavar="MODEL[@VERSION]", required=False)
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
def reproduce(version: str | None, history: str | None, file: str, json_file: str | None, **choices: Any) -> None:  # noqa: ANN401
    """Train a version again from its record, in a new process, and compare: IDENTICAL, EQUIVALENT or DIFFERENT.

    VERSION is a number or an alias; MODEL alone is its champion. Exit code 1 for DIFFERENT, and after an error, which is recorded as FAILED.
    With current data, current code or other parameters no verdict is recorded.

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
        reproduction = _reproduce(project, version or "", choices)
    if json_file:
        write_json(_describe(reproduction), json_file)
    else:
        for line in _format_lines(reproduction):
            out.print(line, highlight=False, soft_wrap=True, markup=False)
    sys.exit(0 if reproduction.is_reproducible else 1)


def _reproduce(project: LoadedProject, version_name: str, choices: dict[str, Any]) -> Reproduction:
    """Reproduce a version, and report a verdict on recorded data, code and parameters to Dagster."""
    from mlops_assets.cli.project import open_clean_instance
    from mlops_assets.cli.registry.aliases import find_model
    from mlops_assets.orchestrate.reproduction.checks import reproduce_and_report
    from mlops_assets.orchestrate.reproduction.reproduction import ReproductionOptions

    name, _, number = version_name.partition("@")
    _, model = find_model(project, name)
    version = _find_version(project, name, number or "champion")
    options = ReproductionOptions(choices["env"], choices["data"], choices["code"], _parse_params(choices["params"]))
    with open_clean_instance(project.platform) as instance:
        return reproduce_and_report(instance, project.stores, model, version, options)


def _parse_params(text: str | None) -> dict[str, Any] | None:
    from mlops_assets.errors import DataError

    if text is None:
        return None
    try:
        params = json.loads(text)
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise DataError(f"--params '{text}' is not a JSON object", hint="""write it as --params '{"max_iter": 100}'""")
    return params


def _find_version(project: LoadedProject, model: str, number_or_alias: str) -> Version:
    from mlops_assets.errors import RegistryError

    known = project.stores.registry.versions(model)
    matching = [v for v in known if number_or_alias == str(v.version) or number_or_alias in v.aliases]
    if not matching:
        existing = ", ".join(str(v.version) for v in known) or "none"
        raise RegistryError(
            f"{model} has no version '{number_or_alias}'", hint=f"there are {existing}; `mlops models list {model}` shows them"
        )
    return matching[-1]


def _describe(reproduction: Reproduction) -> dict[str, Any]:
    return {
        "version": f"{reproduction.model}@{reproduction.version}",
        "verdict": reproduction.verdict,
        "env": reproduction.mode,
        "field": reproduction.field,
        "was": reproduction.was,
        "now": reproduction.now,
        "at": reproduction.at.isoformat(timespec="seconds"),
        **reproduction.facts,
    }


def _format_lines(reproduction: Reproduction) -> list[str]:
    """Return a reproduction as lines for people, with the first 20 differences."""
    differences = [f"  {d['field']}: was {_shorten(d['was'])}, is {_shorten(d['now'])}" for d in reproduction.facts["differences"]]
    first = f"first field that differs: {reproduction.field}" if reproduction.field else "every field is as recorded"
    largest = reproduction.facts["largest difference of a prediction"]
    return [
        f"{reproduction.model}@{reproduction.version}: {reproduction.verdict}",
        first,
        *differences[:20],
        *([f"  and {len(differences) - 20} more"] if len(differences) > 20 else []),
        f"code: {reproduction.facts['code']}",
        f"largest difference of a probe prediction: {largest:.3g}",
    ]


def _shorten(value: Any) -> str:  # noqa: ANN401
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _show_history(project: LoadedProject, model: str, json_file: str | None) -> None:
    from mlops_assets.cli.registry.aliases import find_model
    from mlops_assets.stores.registry.reproductions import open_reproductions

    find_model(project, model)
    facts = [_describe(reproduction) for reproduction in reversed(open_reproductions(project.platform.registry).list(model))]
    columns = ("version", "verdict", "env", "field", "was", "now", "at", "code")
    rows = facts if json_file else [{name: _shorten(row[name]) for name in columns} for row in facts]
    print_rows(f"reproductions of {model}", rows, json_file)
