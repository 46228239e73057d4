"""Read the signature of a user's function, once, at decoration."""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Generic, Literal, ParamSpec, TypeVar

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.names import validate_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

P = ParamSpec("P")
R = TypeVar("R")
CallPer = Literal["partition", "range"]


class Injection(Enum):
    """The kind of value that a parameter of a user's function receives."""

    WINDOW = "TimeWindow"
    SPLIT = "Split"
    CANDIDATE = "Candidate"
    CONFIG = "dagster.Config"
    RESOURCE = "dagster.ConfigurableResource"
    CONTEXT = "dagster.AssetExecutionContext"
    TABLE = "an upstream table"


EVERYWHERE = frozenset({Injection.CONFIG, Injection.RESOURCE, Injection.CONTEXT})  # allowed in every decorated function except gates

# Qualified names rather than classes: reading a signature must not import Dagster, pandas or DuckDB.
_FRAMES = {
    ("polars", "LazyFrame"): "polars.LazyFrame",
    ("polars", "DataFrame"): "polars.DataFrame",
    ("pandas", "DataFrame"): "pandas.DataFrame",
    ("duckdb", "DuckDBPyRelation"): "duckdb.DuckDBPyRelation",
    ("_duckdb", "DuckDBPyRelation"): "duckdb.DuckDBPyRelation",
}
_BY_TYPE = (
    ("mlops_assets", "TimeWindow", Injection.WINDOW),
    ("mlops_assets", "Split", Injection.SPLIT),
    ("mlops_assets", "Candidate", Injection.CANDIDATE),
    ("dagster", "ConfigurableResourceFactory", Injection.RESOURCE),
    ("dagster", "Config", Injection.CONFIG),
    ("dagster", "AssetExecutionContext", Injection.CONTEXT),
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a user's function.

    Parameters
    ----------
    name
        The name; for a table, that of the upstream asset.
    annotation
        The resolved type.
    injection
        The kind of value that the parameter receives.
    frame
        For a table, the qualified name of the annotated frame type, e.g. ``"polars.LazyFrame"``; empty otherwise.
    """

    name: str
    annotation: type
    injection: Injection
    frame: str = ""


@dataclass(frozen=True)
class UserFunction(Generic[P, R]):
    """A user's function with the parameters of its signature. Made by :func:`read_function`; calling it calls the function unchanged."""

    function: Callable[P, R]
    parameters: tuple[Parameter, ...]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the user's function."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name, which names the asset."""
        return self.function.__name__

    @property
    def description(self) -> str:
        """The function's docstring without indentation; empty when there is none."""
        return inspect.getdoc(self.function) or ""

    def parameters_for(self, injection: Injection) -> tuple[Parameter, ...]:
        """Return the parameters that receive this kind of value."""
        return tuple(p for p in self.parameters if p.injection is injection)

    @property
    def takes_validation(self) -> bool:
        """Whether a parameter receives the validation part of a training set."""
        return any(parameter.name == "validation" for parameter in self.parameters_for(Injection.SPLIT))

    @property
    def tables(self) -> tuple[Parameter, ...]:
        """The parameters that receive an upstream table."""
        return self.parameters_for(Injection.TABLE)


def read_function(function: Callable[P, R], *, kind: str, allowed: Collection[Injection], what: str) -> UserFunction[P, R]:
    """Read a function's signature and decide from its annotations what each parameter receives.

    Parameters
    ----------
    function
        The decorated function.
    kind
        The decorator's name, for error messages.
    allowed
        The kinds of values that such a function may receive.
    what
        The noun for messages: ``a dataset``.

    Raises
    ------
    DefinitionError
        A parameter has no annotation, an annotation that cannot be resolved, or one that is not allowed; the function takes ``*args`` or
        ``**kwargs``; or its name cannot name an asset.
    """
    where = f"@ml.{kind} '{getattr(function, '__name__', function)}'"
    user_function = UserFunction(function, tuple(_read_parameters(function, where, allowed)))
    validate_name(user_function.name, what)
    return user_function


def check_call_per(call_per: str, what: str, *, partitioned: bool) -> None:
    """Raise DefinitionError for an unknown ``call_per``, and for ``"range"`` without partitions; ``what`` names the asset in the message."""
    known = typing.get_args(CallPer)
    if call_per not in known:
        raise DefinitionError(
            f"{what}: call_per={call_per!r} is invalid", hint=suggest_name(str(call_per), known) + f"it is one of {', '.join(known)}"
        )
    if call_per == "range" and not partitioned:
        raise DefinitionError(f"{what} has call_per='range' but no partitions", hint="give partitions=, or drop call_per=")


def _read_parameters(function: Callable[..., object], where: str, allowed: Collection[Injection]) -> Iterator[Parameter]:
    hints = _resolve_annotations(function, where)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(f"{where} takes *{name}", hint="name every parameter: what it receives is decided by its name and type")
        if name not in hints:
            raise DefinitionError(
                f"{where}: parameter '{name}' has no annotation",
                hint=f"annotate it with what it receives, e.g. `{name}: pl.LazyFrame` for the table of that name",
            )
        yield _classify(name, hints[name], where, allowed)


def _resolve_annotations(function: Callable[..., object], where: str) -> dict[str, type]:
    # the annotation of the result decides nothing: it may name a class that is only imported under TYPE_CHECKING
    annotations = {name: value for name, value in getattr(function, "__annotations__", {}).items() if name != "return"}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__=annotations), globalns=names)
    except NameError as error:
        raise DefinitionError(
            f"{where}: an annotation cannot be resolved: {error}",
            hint="import the annotated types at run time, not under TYPE_CHECKING: they decide what is injected",
        ) from error


def _classify(name: str, annotation: type, where: str, allowed: Collection[Injection]) -> Parameter:
    """Return the parameter with the kind of value that it receives, by its annotated class or a base of it.

    Raise DefinitionError if that kind is not allowed.
    """
    bases = getattr(annotation, "__mro__", (annotation,))
    names = {((getattr(b, "__module__", "") or "").split(".")[0], getattr(b, "__name__", "")) for b in bases}
    frame = next((label for key, label in _FRAMES.items() if key in names), "")
    injection = Injection.TABLE if frame else next((what for module, cls, what in _BY_TYPE if (module, cls) in names), None)
    if injection in allowed and injection is not None:
        return Parameter(name, annotation, injection, frame)
    choices = ", ".join(sorted(what.value for what in allowed))
    raise DefinitionError(
        f"{where}: parameter '{name}' is annotated {_format_annotation(annotation)}, which it cannot receive",
        hint=f"it can receive {choices}; a table is annotated pl.LazyFrame, pl.DataFrame, pd.DataFrame or duckdb.DuckDBPyRelation",
    )


def _format_annotation(annotation: object) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)
