"""Declared models, and gates that are functions: what :func:`mlops_assets.model` and :func:`mlops_assets.gate` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, get_args

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.function import P, R, UserFunction
from mlops_assets.values.options import AssetOptions

if TYPE_CHECKING:
    from mlops_assets.values.gates.gate import GateLike
    from mlops_assets.values.search import Search
    from mlops_assets.values.training import TrainingSet

Format = Literal["skops", "native", "onnx", "pickle"]
Refit = Literal["after_gates"]
# The field of a record or manifest with the kind of the candidate; the kind when the field is missing; the kind of prompts.
KIND, ESTIMATOR, PROMPT = "candidate_kind", "estimator", "prompt"


def check_format(name: str, model: str) -> None:
    """Raise DefinitionError for an unknown format.

    Parameters
    ----------
    name, model
        The names of the format and of the model that declares it.

    Raises
    ------
    DefinitionError
        The format is unknown.
    """
    if name not in get_args(Format):
        raise DefinitionError(
            f"model '{model}': unknown format '{name}'",
            hint=suggest_name(name, get_args(Format)) + f"there are {', '.join(get_args(Format))}",
        )


def check_refit(name: str | None, model: str) -> None:
    """Raise DefinitionError for an unknown ``refit=``.

    Parameters
    ----------
    name
        The name of the refit; None without one.
    model
        The name of the model that declares it.

    Raises
    ------
    DefinitionError
        The refit is unknown.
    """
    if name is not None and name not in get_args(Refit):
        raise DefinitionError(
            f"model '{model}': unknown refit={name!r}",
            hint=suggest_name(str(name), get_args(Refit)) + "refit='after_gates' refits on all rows after the gates have passed",
        )


@check_constructor
@dataclass(frozen=True)
class Model(Generic[P, R]):
    """A declared model, trained by a function. Made by :func:`mlops_assets.model`; still callable as that function.

    See Also
    --------
    mlops_assets.model : Returns it.
    """

    function: UserFunction[P, R]
    training_set: TrainingSet[..., Any]
    metrics: tuple[str, ...]
    gates: tuple[GateLike, ...] = ()
    slices: tuple[str, ...] = ()
    cron_schedule: str | None = None
    cron_timezone: str = "UTC"
    trusted_types: tuple[str, ...] = ()
    format: Format = "skops"
    approval: bool = False
    search: Search | None = None
    limits: tuple[str, ...] = ()
    positive: Any = None
    refit: Refit | None = None
    kind: str = ESTIMATOR
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def key(self) -> str:
        """``model/<name>``: the key of the model's candidate."""
        return f"model/{self.name}"


@check_constructor
@dataclass(frozen=True)
class GateFunction(Generic[P, R]):
    """A gate whose result a function of the project returns. Made by :func:`mlops_assets.gate`; still callable as that function.

    See Also
    --------
    mlops_assets.gate : Returns it.
    """

    function: UserFunction[P, R]
    model: Model[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name, which names the asset check, e.g. ``is_better_than_chance``."""
        return self.function.name
