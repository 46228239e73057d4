"""Check arguments against the types of a signature; the error for a wrong argument says what to write."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Any], bool]

_PLAIN: dict[str, tuple[str, Check]] = {
    "None": ("None", lambda value: value is None),
    "str": ("a text", lambda value: isinstance(value, str) or hasattr(value, "__fspath__")),
    "bool": ("True or False", lambda value: isinstance(value, bool) or type(value).__name__ == "bool_"),
    "int": ("a whole number", lambda value: isinstance(value, numbers.Integral)),
    "float": ("a number", lambda value: isinstance(value, numbers.Real)),
    "type": ("a class", lambda value: isinstance(value, type)),
    "datetime": ("a datetime", lambda value: isinstance(value, datetime)),
    "timedelta": ("a timedelta", lambda value: isinstance(value, timedelta)),
    "Mapping": ("a dict", lambda value: isinstance(value, (Mapping, tuple))),  # frozen values keep pairs
    **dict.fromkeys(
        ("Sequence", "tuple", "Iterable"), ("a list", lambda value: isinstance(value, Iterable) and not isinstance(value, Mapping))
    ),
}
_DAGSTER_CLASSES = ("PartitionsDefinition", "PartitionMapping", "ExecutorDefinition")
_EXAMPLES = {
    "a datetime": "give an aware datetime, e.g. datetime(2024, 1, 1, tzinfo=UTC)",
    "a timedelta": "give a timedelta, e.g. timedelta(days=1)",
    "a dict": "give a dict: {…: …}",
    "a whole number": "give a whole number without quotes",
    "a number": "give a number without quotes",
    "True or False": "write True or False",
}
_SHOWN = (str, int, float, bool, list, tuple, type(None))  # values that an error message quotes; others are named by their class


def list_type_checks(signature: inspect.Signature, classes: Iterable[str]) -> dict[str, list[tuple[str, Check]]]:
    """Return parameter → what it accepts, as a description and a check for each alternative of its type.

    A parameter with a type that is not known here is omitted, and accepts everything.

    Parameters
    ----------
    signature
        The signature, with annotations as text or as types.
    classes
        Names of the package's own classes, which are known too.
    """
    known = {*classes, *_DAGSTER_CLASSES}
    checks_by_name = {
        name: _list_checks(_format_annotation(parameter.annotation), known) for name, parameter in signature.parameters.items()
    }
    return {name: checks for name, checks in checks_by_name.items() if checks}


def check_types(name: str, arguments: Mapping[str, Any], checks: Mapping[str, list[tuple[str, Check]]]) -> None:
    """Raise DefinitionError for the first argument that no check of its parameter accepts.

    Parameters
    ----------
    name
        The callable, as a user writes it.
    arguments
        Parameter → value, as :meth:`inspect.Signature.bind` assigns them.
    checks
        The result of :func:`list_type_checks`.
    """
    for parameter, value in arguments.items():
        accepted = checks.get(parameter, [])
        if accepted and not any(check(value) for _, check in accepted):
            expected = " or ".join(description for description, _ in accepted if description != "None")
            raise DefinitionError(
                f"{name} was given {_describe_value(value)} as '{parameter}', which takes {expected}",
                hint=_suggest_value(name, parameter, value, expected),
            )


def _format_annotation(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    return getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)


def _list_checks(annotation: str, known: set[str]) -> list[tuple[str, Check]]:
    """Return description and check of each alternative of an annotation; empty when an alternative is unknown."""
    checks = []
    for alternative in _split_alternatives(annotation):
        base, _, inner = alternative.partition("[")
        base = base.rpartition(".")[2]
        if base in _PLAIN:
            description, check = _PLAIN[base]
            lists_values = description == "a list" and not inner.startswith(("str", "Any"))
            checks.append((description, _exclude_text(check) if lists_values else check))
        elif base in known:
            checks.append((f"a {base}", _is_instance(base)))
        else:
            return []
    return checks


def _split_alternatives(annotation: str) -> list[str]:
    """Split an annotation at each ``|`` that is outside of brackets."""
    parts, depth = [""], 0
    for character in annotation:
        depth += (character in "[(") - (character in "])")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _exclude_text(check: Check) -> Check:
    return lambda value: check(value) and not isinstance(value, (str, bytes))


def _is_instance(name: str) -> Check:
    return lambda value: any(base.__name__ == name for base in type(value).__mro__)


def _describe_value(value: object) -> str:
    """Return a value as an error message quotes it, at most 60 characters; a value of another type is described by its class."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isfunction(value):
        return f"the function '{value.__name__}'"
    return repr(value)[:60] if isinstance(value, _SHOWN) else f"a {type(value).__name__}"


def _suggest_value(name: str, parameter: str, value: Any, expected: str) -> str:  # noqa: ANN401  (a list of cases)
    """Return what to write instead of a value of a wrong type; frequent mistakes have hints of their own."""
    if name == "ml.Entity" and isinstance(value, (list, tuple)):
        return f"name the entity and list its columns: ml.Entity({'_'.join(map(str, value))!r}, join_keys={list(value)!r})"
    if expected == "a list":
        return f"put it into a list: {name}([…])" if parameter == "items" else f"put it into a list: {parameter}=[…]"
    if expected in _EXAMPLES:
        return _EXAMPLES[expected]
    if isinstance(value, type):
        return f"make one of it: {value.__name__}(…)"
    if inspect.isfunction(value):
        return (
            f"write @{name}(…) above '{value.__name__}'" if name == "ml.gate" else f"decorate '{value.__name__}' first, or give {expected}"
        )
    return _suggest_plain_value(parameter, value, expected)


def _suggest_plain_value(parameter: str, value: object, expected: str) -> str:
    if isinstance(value, str):
        return f"give {expected} itself, not its name"
    return f"give one text as {parameter}=" if expected == "a text" else f"give {expected}"
