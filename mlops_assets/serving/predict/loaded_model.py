"""A registered model for a notebook or a script: the fitted estimator, verified as a service verifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.training.lifecycle import CHALLENGER, CHAMPION
from mlops_assets.errors import RegistryError, suggest_name
from mlops_assets.serving.formats.packaging import unpack
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.registry.records import Version
    from mlops_assets.stores.registry.registry import Registry


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A registered version, verified to predict as it did when it was stored. Made by :func:`load_model`.

    Parameters
    ----------
    name, version
        The model's name and the version's number.
    estimator
        Fitted; it takes rows of ``X`` as a polars frame.
    signature
        One mapping for each column of ``X``, in order: ``column``, ``dtype``, ``nulls`` (the share), ``minimum``, ``maximum``,
        ``categories`` and ``others`` (how many further categories), as they were in training.

    See Also
    --------
    mlops_assets.load_model : Returns it.
    """

    name: str
    version: int
    estimator: Any
    signature: tuple[Mapping[str, Any], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of ``X``, in order."""
        return tuple(row["column"] for row in self.signature)


@check_arguments
def load_model(model: str, *, trusted_types: Sequence[str] = (), platform: Platform | None = None) -> LoadedModel:
    """Load a registered model; every byte is verified, and the model must predict its stored rows as it did in training.

    Parameters
    ----------
    model
        ``name@champion``, ``name@challenger`` or ``name@`` and the number of a version. Aliases are those of the platform's environment.
    trusted_types
        Types beyond scikit-learn's own that may be loaded, as in :func:`mlops_assets.model`: loading one runs its code.
    platform
        Where the registry and the artifacts are; ``Platform.from_env()`` when None.

    Returns
    -------
    LoadedModel
        The fitted estimator with its name, version and signature.

    Raises
    ------
    RegistryError
        There is no such model, version or alias.
    ArtifactError
        Bytes are missing or changed, a type is not trusted, or the model predicts differently from when it was stored.

    See Also
    --------
    lookup : The online features of entities.
    training_frame : Features joined to rows.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> ml.load_model("lateness@champion", platform=ml.Platform.at(tempfile.mkdtemp()))
    Traceback (most recent call last):
    mlops_assets.errors.RegistryError: there is no registered model 'lateness'
    Hint: there are none in this home: train one, or look at `mlops models list`
    """
    stores = open_stores(platform or Platform.from_env())
    version = _find_version(stores.registry, model)
    bundle = unpack(stores.artifacts, version.artifact, trusted_types)
    return LoadedModel(version.model, version.version, bundle.estimator, tuple(bundle.manifest["signature"]))


def _find_version(registry: Registry, model: str) -> Version:
    """Return the version that ``name@alias`` or ``name@number`` names; raise RegistryError when there is none."""
    name, _, reference = model.partition("@")
    versions = registry.versions(name)
    if not versions:
        names = sorted({version.model for version in registry.versions()})
        advice = f"there are {', '.join(names)}" if names else "there are none in this home: train one, or look at `mlops models list`"
        raise RegistryError(f"there is no registered model '{name}'", hint=suggest_name(name, names) + advice)
    match = next((version for version in versions if reference in (*version.aliases, str(version.version))), None)
    if match is None:
        numbers = [str(version.version) for version in versions]
        aliases = [alias for alias in (CHAMPION, CHALLENGER) if any(alias in version.aliases for version in versions)]
        what = f"has no '{reference}'" if reference else "is named without a version"
        raise RegistryError(
            f"model '{name}' {what}",
            hint=suggest_name(reference, [*aliases, *numbers]) + f"give {name}@ and one of {', '.join([*aliases, *numbers])}",
        )
    return match
