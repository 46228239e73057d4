"""Validate JSON values against a JSON Schema (draft 2020-12), with ``jsonschema``.

An unknown keyword is an error here: it is usually misspelt, and a validator that ignores it accepts values that the schema should reject.
"""

from __future__ import annotations

# ruff: noqa: ANN401  (JSON values are of any type)
import json
import math
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError, MissingExtraError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ANNOTATIONS = (  # keywords that check nothing
    "$schema",
    "$id",
    "$comment",
    "$anchor",
    "$defs",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
)
_BRANCHES = ("then", "else", "discriminator")  # jsonschema reads the first two with ``if`` and skips the last, which pydantic writes
_MAPS, _LISTS = ("$defs", "properties", "patternProperties", "dependentSchemas"), ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_MAX_QUOTED = 60  # characters of a value in a reason
_MAX_REASON = 160


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Parameters
    ----------
    text : str
        The text. ``NaN``, ``Infinity``, numbers beyond a double and a name that occurs twice in an object are not valid JSON.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        The text is not valid JSON, or is nested too deeply.

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
    """Return why a JSON value does not fit a schema: the first fault in the order of paths.

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
        The schema is invalid, has an unknown keyword, or refers to a schema that it does not contain.
    MissingExtraError
        jsonschema is not installed.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.json_schema import find_fault
    >>> schema = {"type": "object", "properties": {"minutes": {"type": "integer", "minimum": 0}}, "required": ["minutes"]}
    >>> find_fault({"minutes": 15}, schema), find_fault({"minutes": -1}, schema)
    ('', '$.minutes: -1 is less than the minimum of 0')
    """
    validator = _build_validator(schema)
    import referencing.exceptions

    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    except RecursionError:
        return "$: it is nested too deeply"
    except referencing.exceptions.Unresolvable as error:
        raise DefinitionError(f"the JSON schema refers to {error.ref!r}, which it does not contain", hint="put it into $defs") from None
    return f"{errors[0].json_path}: {_shorten(errors[0].message)}" if errors else ""


def _build_validator(schema: Mapping[str, Any]) -> Any:
    try:
        import jsonschema
        import referencing
    except ImportError as error:
        raise MissingExtraError.from_extra("jsonschema", "llm") from error
    validator = jsonschema.Draft202012Validator
    try:
        validator.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as error:
        where = getattr(error, "json_path", "$")
        raise DefinitionError(
            f"the JSON schema is invalid at {where}: {_shorten(getattr(error, 'message', 'it is nested too deeply'))}",
            hint="see json-schema.org",
        ) from None
    known = {*validator.VALIDATORS, *_ANNOTATIONS, *_BRANCHES}
    for where, keyword in _list_keywords(schema, "$"):
        if keyword not in known:
            raise DefinitionError(
                f"the JSON schema has the unknown keyword '{keyword}' at {where}",
                hint=suggest_name(keyword, known) or "see json-schema.org",
            )
    return validator(schema, registry=referencing.Registry(), format_checker=validator.FORMAT_CHECKER)  # this registry fetches nothing


def _list_keywords(schema: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield path and keyword for each keyword of a schema and of the schemas in it."""
    if not isinstance(schema, dict):
        return
    for keyword, argument in schema.items():
        yield where, keyword
        place = f"{where}.{keyword}"
        children = {place: argument} if keyword in _SINGLE else {}
        if keyword in _MAPS:
            children = {f"{place}.{name}": child for name, child in argument.items()}
        elif keyword in _LISTS:
            children = {f"{place}[{number}]": child for number, child in enumerate(argument)}
        for name, child in children.items():
            yield from _list_keywords(child, name)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON // 2]} … {text[-_MAX_REASON // 2 :]}"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:_MAX_QUOTED]} is too large")
    return value


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return built
