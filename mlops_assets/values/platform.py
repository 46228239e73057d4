"""The platform of a project: its stores and its environment, declared in code or read from environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.values.arguments import check_arguments, check_constructor

if TYPE_CHECKING:
    from collections.abc import Mapping


@check_constructor
@dataclass(frozen=True, slots=True)
class Platform:
    """The stores of a project, each a URL or a folder, and the environment that uses them.

    Parameters
    ----------
    home
        Absolute path of the folder that contains the default stores.
    lake
        Folder of the DuckLake.
    registry
        SQLAlchemy URL of the tracker and the registry.
    artifacts
        fsspec URL of the content-addressed artifacts: a folder or ``s3://bucket/prefix``.
    online
        Folder of the online feature store, or ``redis://host:port/db``.
    environment
        The name of the environment, e.g. ``dev``, ``staging`` or ``prod``. Each has its own candidates, approvals and aliases; all
        environments of a registry share its versions.
    webhook
        URL that receives alerts as JSON, as ``ml.monitoring.Webhook`` does; none when empty.
    against
        Another environment, with whose champion a candidate is compared while ``environment`` has no champion. Empty to compare within
        ``environment`` only.
    mlflow
        URL of an MLflow server that mirrors runs and versions; none when empty.

    See Also
    --------
    build_definitions : Compile a project for a platform.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Platform.at("shop", environment="prod").environment
    'prod'
    """

    home: str
    lake: str
    registry: str
    artifacts: str
    online: str
    environment: str = "dev"
    webhook: str = ""
    against: str = ""
    mlflow: str = ""

    @classmethod
    @check_arguments
    def at(cls, home: str | os.PathLike[str], *, environment: str = "dev") -> Platform:
        """Return a platform with the default stores, all below one folder.

        Parameters
        ----------
        home
            The folder; a relative path is made absolute.
        environment
            The name of the environment.

        Returns
        -------
        Platform
            The platform with all stores in ``home``.
        """
        root = Path(home).absolute()
        registry = f"sqlite:///{root / 'registry.sqlite'}"
        return cls(str(root), str(root / "lake"), registry, str(root / "artifacts"), str(root / "online"), environment)

    @classmethod
    @check_arguments
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Platform:
        """Return the platform that the ``MLOPS_…`` environment variables describe.

        They are ``MLOPS_HOME`` (default ``.mlops``), ``MLOPS_LAKE``, ``MLOPS_REGISTRY``, ``MLOPS_ARTIFACTS``, ``MLOPS_ONLINE``, ``MLOPS_ENV``
        (default ``dev``), ``MLOPS_WEBHOOK``, ``MLOPS_AGAINST`` and ``MLOPS_MLFLOW``.

        Parameters
        ----------
        environ
            Variable → value; the environment of the process when None.

        Returns
        -------
        Platform
            The stores that the variables name; a store without a variable is in the home folder.
        """
        env = os.environ if environ is None else environ
        local = cls.at(env.get("MLOPS_HOME") or ".mlops")
        return cls(
            local.home,
            env.get("MLOPS_LAKE") or local.lake,
            env.get("MLOPS_REGISTRY") or local.registry,
            env.get("MLOPS_ARTIFACTS") or local.artifacts,
            env.get("MLOPS_ONLINE") or local.online,
            env.get("MLOPS_ENV") or "dev",
            env.get("MLOPS_WEBHOOK") or "",
            env.get("MLOPS_AGAINST") or "",
            env.get("MLOPS_MLFLOW") or "",
        )
