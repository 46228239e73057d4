"""Validate JSON values against a JSON Schema, without a further package.

The keywords are those that describe a model's response. An unknown keyword is an error: a validator that skipped it would accept what
the schema refuses.
"""

from __future__ import annotations

# ruff: noqa: ANN401  (JSON values are of any type)
import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops_assets.errors import DefinitionError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_NOTES = {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_MAX_DEPTH = 50
_MAX_QUOTED = 60  # characters of a value in a reason


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Parameters
    ----------
    text : str
        The text. ``NaN``, ``Infinity``, numbers beyond a double and a name that occurs twice in an object are no JSON.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        The text is no JSON.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.json_schema import parse_json
    >>> parse_json('{"minutes": 15}')
    {'minutes': 15}
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float, object_pairs_hook=_build_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def find_fault(value: object, schema: Mapping[str, Any]) -> str:
    """Return the first reason why a JSON value does not fit a schema.

    Parameters
    ----------
    value : object
        The value, as :func:`parse_json` returns it.
    schema : Mapping
        A JSON Schema.

    Returns
    -------
    str
        Where and why, or an empty text when the value fits.

    Raises
    ------
    DefinitionError
        The schema has an unknown keyword, type, or value of a keyword.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.json_schema import find_fault
    >>> schema = {"type": "object", "properties": {"minutes": {"type": "integer", "minimum": 0}}, "required": ["minutes"]}
    >>> find_fault({"minutes": 15}, schema), find_fault({"minutes": -1}, schema)
    ('', '$.minutes: -1 is below the minimum 0')
    """
    check_schema(schema)
    return next(_find_faults(value, schema, "$"), "")


def check_schema(schema: object, where: str = "$", depth: int = 0) -> None:
    """Refuse a schema that the validator does not understand.

    Parameters
    ----------
    schema : object
        The schema.
    where : str
        Its place, for the message.
    depth : int
        How deeply it is nested.

    Raises
    ------
    DefinitionError
        A keyword is unknown, or its value is of the wrong type.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.json_schema import check_schema
    >>> check_schema({"type": "string", "maxLenght": 3})
    Traceback (most recent call last):
    mlops_assets.errors.DefinitionError: the JSON schema has the unknown keyword 'maxLenght' at $
    Hint: did you mean 'maxLength'?
    """
    if depth > _MAX_DEPTH:
        raise DefinitionError(f"the JSON schema is nested more than {_MAX_DEPTH} deep", hint="flatten it")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise DefinitionError(f"the JSON schema has {schema!r} at {where}", hint="write an object such as {'type': 'string'}")
    for keyword, value in schema.items():
        if keyword in _NOTES:
            continue
        if keyword not in _KEYWORDS:
            hint = nearest(keyword, _KEYWORDS) or f"use {', '.join(sorted(_KEYWORDS))}"
            raise DefinitionError(f"the JSON schema has the unknown keyword '{keyword}' at {where}", hint=hint.strip())
        if not _KEYWORDS[keyword].accepts(value):
            raise DefinitionError(f"the JSON schema has {keyword} {value!r} at {where}", hint="see json-schema.org for its type")
        children = value.items() if keyword == "properties" else enumerate(value) if keyword in _LISTS else [("", value)]
        for name, child in children if keyword in _PARENTS else ():
            check_schema(child, f"{where}.{keyword}.{name}".rstrip("."), depth + 1)


def _find_faults(value: Any, schema: Any, where: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{where}: no value is allowed here"
        return
    for keyword, argument in schema.items():
        if keyword in _KEYWORDS:
            yield from _KEYWORDS[keyword].find(value, argument, schema, where)


def _fits(value: Any, schema: Any) -> bool:
    return next(_find_faults(value, schema, "$"), None) is None


def _find_property_faults(value: Any, argument: Any, _schema: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, child in argument.items() if isinstance(value, dict) else ():
        if name in value:
            yield from _find_faults(value[name], child, f"{where}.{name}")


def _find_further_properties(value: Any, argument: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    further = [name for name in value if name not in schema.get("properties", {})] if isinstance(value, dict) else []
    if argument is False and further:
        yield f"{where}: the property {_quote(further[0])} is not declared"
        return
    for name in further:
        yield from _find_faults(value[name], argument, f"{where}.{name}")


def _find_item_faults(value: Any, argument: Any, _schema: Mapping[str, Any], where: str) -> Iterator[str]:
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield from _find_faults(item, argument, f"{where}[{number}]")


def _find_all_faults(value: Any, argument: Any, _schema: Mapping[str, Any], where: str) -> Iterator[str]:
    for child in argument:
        yield from _find_faults(value, child, where)


class _Keyword(NamedTuple):
    """What a keyword accepts as its argument, and how it finds faults of a value."""

    accepts: Callable[[Any], bool]
    find: Callable[[Any, Any, Mapping[str, Any], str], Iterator[str]]


def _compare(accepts: Callable[[Any], bool], applies: Callable[[Any], bool], fits: Callable[[Any, Any], bool], text: str) -> _Keyword:
    """Return a keyword that compares each value of one type with its argument."""

    def find(value: Any, argument: Any, _schema: Mapping[str, Any], where: str) -> Iterator[str]:
        if applies(value) and not fits(value, argument):
            yield f"{where}: {text.format(value=_quote(value), argument=_quote(argument))}"

    return _Keyword(accepts, find)


def _is_any(_value: Any) -> bool:
    return True


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_array(value: Any) -> bool:
    return isinstance(value, list)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and value == value // 1


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_schema, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_types(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list) and len(names) > 0 and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def _has_type(value: Any, names: str | Sequence[str]) -> bool:
    return any(_TYPES[name](value) for name in ([names] if isinstance(names, str) else names))


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal: 1 is 1.0, and neither is true."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_equal(one[name], other[name]) for name in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _quote(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:_MAX_QUOTED]} is too large")
    return value


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": _is_object,
    "array": _is_array,
    "string": _is_text,
    "boolean": _is_bool,
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": _is_integer,
}
_KEYWORDS = {
    "type": _compare(_are_types, _is_any, _has_type, "{value} is not of type {argument}"),
    "const": _compare(_is_any, _is_any, _are_equal, "{value} is not {argument}"),
    "enum": _compare(
        _is_array, _is_any, lambda value, known: any(_are_equal(value, one) for one in known), "{value} is none of {argument}"
    ),
    "required": _compare(_are_names, _is_object, lambda value, names: set(names) <= set(value), "{value} lacks one of {argument}"),
    "minLength": _compare(_is_count, _is_text, lambda value, limit: len(value) >= limit, "{value} is shorter than {argument}"),
    "maxLength": _compare(_is_count, _is_text, lambda value, limit: len(value) <= limit, "{value} is longer than {argument}"),
    "pattern": _compare(_is_pattern, _is_text, lambda value, pattern: bool(re.search(pattern, value)), "{value} does not match {argument}"),
    "minItems": _compare(_is_count, _is_array, lambda value, limit: len(value) >= limit, "it has fewer than {argument} items"),
    "maxItems": _compare(_is_count, _is_array, lambda value, limit: len(value) <= limit, "it has more than {argument} items"),
    "minimum": _compare(_is_number, _is_number, lambda value, limit: value >= limit, "{value} is below the minimum {argument}"),
    "maximum": _compare(_is_number, _is_number, lambda value, limit: value <= limit, "{value} is above the maximum {argument}"),
    "exclusiveMinimum": _compare(_is_number, _is_number, lambda value, limit: value > limit, "{value} is not above {argument}"),
    "exclusiveMaximum": _compare(_is_number, _is_number, lambda value, limit: value < limit, "{value} is not below {argument}"),
    "anyOf": _compare(_are_schemas, _is_any, lambda value, some: any(_fits(value, one) for one in some), "{value} fits no schema of anyOf"),
    "oneOf": _compare(
        _are_schemas, _is_any, lambda value, some: sum(_fits(value, one) for one in some) == 1, "{value} does not fit exactly one of oneOf"
    ),
    "not": _compare(_is_schema, _is_any, lambda value, schema: not _fits(value, schema), "{value} fits the schema of not"),
    "allOf": _Keyword(_are_schemas, _find_all_faults),
    "properties": _Keyword(_is_object, _find_property_faults),
    "additionalProperties": _Keyword(_is_schema, _find_further_properties),
    "items": _Keyword(_is_schema, _find_item_faults),
}
_LISTS = ("anyOf", "oneOf", "allOf")
_PARENTS = (*_LISTS, "properties", "additionalProperties", "items", "not")
