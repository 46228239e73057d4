"""Check the names and types of the arguments of public callables, so that a wrong argument raises DefinitionError with a hint."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.argument_types import check_types, list_type_checks
from mlops_assets.values.options import AssetArguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_CLASSES: set[str] = set()  # names of the classes whose constructors are checked
# Prefixes of functions that check the types themselves, because some are called in each training step.
_ACTIONS = ("log_", "start_run", "push", "training_frame")
_PUBLIC_MODULES = {"mlops_assets": "ml"} | {f"mlops_assets.{name}": f"ml.{name}" for name in ("llm", "monitoring", "runs", "types")}
_MAX_ACCEPTED = 256  # pairs of a parameter and a type that a callable remembers
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with a check: a call whose arguments do not fit the signature raises DefinitionError with the call to write.

    Names, numbers and types of arguments are checked. ``**options`` of a signature are those of :class:`AssetArguments`; any other keyword
    is unknown.

    Parameters
    ----------
    function
        A public function or method.
    """
    return cast("Callable[P, R]", _wrap(function, function.__qualname__))


def check_constructor(cls: C) -> C:
    """Check the arguments of a class's constructor as :func:`check_arguments` does, and return the class."""
    _CLASSES.add(cls.__name__)
    type.__setattr__(cls, "__init__", _wrap(vars(cls)["__init__"], cls.__qualname__))
    return cls


def _wrap(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function that checks its arguments and then calls ``function``, whose qualified name is ``name``."""
    signature = inspect.signature(function)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    typed = not name.startswith(_ACTIONS)
    checks = functools.cache(lambda: list_type_checks(signature, _CLASSES))  # at the first call, when all classes are known
    positional = [parameter.name for parameter in signature.parameters.values() if parameter.kind in _POSITIONAL]
    accepted: set[tuple[str, type]] = set()  # parameters with types that passed: no check depends on more of a value than its type

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (those of the function)
        if open_ended:
            _check_call(name, signature, args, kwargs)
        if typed:
            given = {(each, type(value)) for each, value in (*zip(positional, args, strict=False), *kwargs.items())}
            if len(args) > len(positional) or not given <= accepted:
                _check_types(name, signature, args, kwargs, checks())
                if len(accepted) < _MAX_ACCEPTED:
                    accepted.update(given)
        try:
            return function(*args, **kwargs)
        except TypeError:  # the check raises if the arguments are wrong; else the error is from within the function
            _check_call(name, signature, args, kwargs)
            raise

    return call


def _check_types(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], checks: Mapping[str, Any]
) -> None:
    """Raise DefinitionError for arguments that do not fit the signature, or have another type than it declares."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        _check_call(name, signature, args, kwargs)
        raise
    check_types(_public_name(name), bound.arguments, checks)


def _public_name(name: str) -> str:
    """Return a name as users write it: ``ml.Gate`` for ``Gate``, ``ml.runs.log_metric`` for ``log_metric``; other names are unchanged."""
    for module, prefix in _PUBLIC_MODULES.items():
        if name.split(".", maxsplit=1)[0] in getattr(sys.modules.get(module), "__all__", ()):
            return f"{prefix}.{name}"
    return name


def _check_call(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise DefinitionError when the names or the number of a call's arguments do not fit a signature."""
    name = _public_name(name)
    parameters = {n: p for n, p in signature.parameters.items() if n not in ("self", "cls")}
    known = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        known += [option for option in AssetArguments.__annotations__ if option not in known]
    for argument in kwargs:
        if argument not in known:
            raise DefinitionError(
                f"{name} has no argument '{argument}'", hint=suggest_name(argument, known) + f"it takes {', '.join(known) or 'no keyword'}"
            ) from None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        problem, hint = _explain_call(name, signature, args, kwargs, str(error))
        raise DefinitionError(problem, hint=hint) from None


def _explain_call(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: str) -> tuple[str, str]:
    """Return the problem with the number of arguments, and the hint; ``error`` is Python's message for cases without a better one."""
    parameters = signature.parameters
    placed = [n for n, p in parameters.items() if p.kind in _POSITIONAL]
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if len(args) > len(placed) and inspect.isfunction(args[-1]) and required:
        return (
            f"@{name} stands above '{args[-1].__name__}' without its arguments",
            f"write @{name}({_format_keywords(required)})",
        )
    skipped = len(placed) - len([n for n in placed if n not in ("self", "cls")])
    accepted = len(placed) - skipped
    if len(args) > len(placed) and str(parameters[placed[0]].annotation).startswith("Sequence"):
        return f"{name} takes one list, but {len(args)} arguments were given", f"put them into it: {name}([…, …])"
    if len(args) > len(placed):
        by_name = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n not in kwargs]
        return (
            f"{name} takes {accepted} argument{'' if accepted == 1 else 's'} by position, {len(args) - skipped} were given",
            f"give the others by name: {_format_keywords(by_name)}" if by_name else f"give {_format_keywords(placed[skipped:]) or 'none'}",
        )
    missing = [n for n in (*placed[len(args) :], *required) if parameters[n].default is parameters[n].empty and n not in kwargs]
    if missing == ["function"]:
        return f"@{name}() lacks the function", f"write @{name} without parentheses"
    if missing:
        return f"{name} lacks '{missing[0]}'", f"give {_format_keywords(missing)}"
    return f"{name}: {error}", "give every argument once"


def _format_keywords(names: Iterable[str]) -> str:
    return ", ".join(f"{name}=…" for name in names)
