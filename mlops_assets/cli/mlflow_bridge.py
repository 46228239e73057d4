"""``mlops mlflow``: mirror to an MLflow server, import from one, export a version."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops_assets.cli.options import console, json_option, load_without_dbt, platform_option, write_json
from mlops_assets.errors import InstallationError, RegistryError
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from mlops_assets.stores.platform.stores import Stores

_uri = click.option("--uri", default="", metavar="URL", help="The server  [default: MLOPS_MLFLOW]")


@click.group("mlflow")
def mlflow() -> None:
    """Mirror runs and versions to an MLflow server, import from one, and export a version as an MLflow model."""


def _open_stores(file: str | None) -> Stores:
    from mlops_assets.stores.platform.stores import open_stores

    return open_stores(Platform.from_env() if file is None else load_without_dbt(file).platform)


def _server_url(stores: Stores, uri: str) -> str:
    if url := uri or stores.platform.mlflow:
        return url
    raise InstallationError("no MLflow server is configured", hint="set MLOPS_MLFLOW=http://host:5000, or give --uri")


@mlflow.command("mirror")
@_uri
@platform_option
@json_option
def mirror_command(uri: str, file: str | None, json_file: str | None) -> None:
    """Copy new runs, versions and aliases to an MLflow server; runs and versions that it has already are not changed.

    Example: MLOPS_MLFLOW=http://127.0.0.1:5000 mlops mlflow mirror
    """
    from mlops_assets.serving.bridges.mlflow_mirror import mirror

    stores = _open_stores(file)
    done = mirror(stores, _server_url(stores, uri))
    if json_file:
        write_json(asdict(done), json_file)
        return
    waiting = f"; {done.waiting} still active" if done.waiting else ""
    console().print(f"mirrored {done.runs} runs, {done.versions} versions, {done.aliases} aliases{waiting}")


@mlflow.command("import")
@_uri
@click.option("--experiment", "experiments", multiple=True, metavar="NAME", help="Only this experiment; may be repeated  [default: all]")
@click.option("--running", is_flag=True, help="Also import runs that never ended, as killed.")
@platform_option
@json_option
def import_command(uri: str, experiments: tuple[str, ...], file: str | None, json_file: str | None, *, running: bool) -> None:
    """Import experiments and registered models of an MLflow server: runs, curves, parameters, tags, files, versions.

    Example: mlops mlflow import --uri http://127.0.0.1:5000 --experiment churn
    """
    from mlops_assets.stores.mlflow.importer import import_from

    stores = _open_stores(file)
    done = import_from(stores, _server_url(stores, uri), experiments, running=running)
    if json_file:
        write_json(asdict(done), json_file)
        return
    note = f"; {done.running} runs are active (--running imports them as killed)" if done.running else ""
    console().print(f"imported {done.runs} runs and {done.versions} versions; {done.known} were imported before{note}")


@mlflow.command("export")
@click.argument("version", metavar="MODEL@VERSION")
@click.argument("folder")
@platform_option
def export_command(version: str, folder: str, file: str | None) -> None:
    """Export a version as a folder for mlflow.pyfunc.load_model; every byte is verified.

    Example: mlops mlflow export churn@3 churn-3
    """
    from mlops_assets.serving.bridges.mlflow_flavour import export_version

    stores = _open_stores(file)
    model, _, number = version.partition("@")
    known = {str(registered.version): registered for registered in stores.registry.versions(model)}
    if number not in known:
        raise RegistryError(
            f"there is no version '{version}'", hint=f"'{model}' has {', '.join(known) or 'none'}: name one as MODEL@VERSION"
        )
    written = export_version(stores.artifacts, known[number], Path(folder))
    console().print(f"wrote {written}: mlflow.pyfunc.load_model({str(written)!r})", markup=False)
