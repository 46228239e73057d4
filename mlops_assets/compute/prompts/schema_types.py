"""Build the types of stored prompts from JSON schemas, so that a prompt is served without the project that declares it."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONSTRAINTS = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "pattern": "pattern",
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}
_ANNOTATIONS = {"title", "description", "default", "examples", "$defs", "deprecated"}
_SCALARS: Mapping[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
_SHAPES = {"type", "items", "prefixItems", "properties", "required", "additionalProperties", "anyOf", "enum", "const", "$ref", "format"}


@dataclass(frozen=True, eq=False)
class StoredSchema:
    """The JSON schema of a stored type, attached to the type as an annotation.

    Parameters
    ----------
    schema
        The schema, as JSON values.
    """

    schema: Mapping[str, Any]


def build_type(schema: Mapping[str, Any], what: str) -> Any:  # noqa: ANN401  (a type)
    """Return a type that accepts and writes the same JSON as the type from which pydantic made a schema.

    Validators, serialisers and default factories of the original type are lost, because a schema holds no functions. So a field with a
    default factory is missing from the value if it is missing from the JSON.

    Parameters
    ----------
    schema
        The JSON schema, as :func:`~mlops_assets.compute.prompts.version.build_json_schema` returns it.
    what
        The variable or response with this type, named in the error.

    Returns
    -------
    type
        The type, annotated with :class:`StoredSchema`.

    Raises
    ------
    DefinitionError
        The schema has a keyword that this function does not know.
    """
    return annotate_type(_TypeBuilder(schema.get("$defs", {}), what).build(schema), schema)


def annotate_type(kind: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401  (types)
    """Return a type annotated with its stored JSON schema, so that its values are read from JSON.

    Parameters
    ----------
    kind
        The type.
    schema
        Its schema.
    """
    return Annotated[kind, StoredSchema(schema)]


def find_stored_schema(annotation: Any) -> Mapping[str, Any] | None:  # noqa: ANN401  (any annotation)
    """Return the schema of a type from :func:`build_type` or :func:`annotate_type`; None for any other type."""
    metadata = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()
    return next((item.schema for item in metadata if isinstance(item, StoredSchema)), None)


class _TypeBuilder:
    """Builds the types of one schema.

    Parameters
    ----------
    definitions
        The schemas that ``$ref`` names.
    what
        The variable or response with this type, named in the error.
    """

    def __init__(self, definitions: Mapping[str, Any], what: str) -> None:
        self._definitions, self._what = definitions, what
        self._named: dict[str, Any] = {}

    def build(self, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a type)
        """Return the type of a schema."""
        import pydantic

        self._refuse_unknown(schema)
        constraints: dict[str, Any] = {_CONSTRAINTS[key]: value for key, value in schema.items() if key in _CONSTRAINTS}
        built = self._build_shape(schema)
        return Annotated[built, pydantic.Field(**constraints)] if constraints else built

    def _refuse_unknown(self, schema: Mapping[str, Any]) -> None:
        for keyword in schema:
            if keyword not in _ANNOTATIONS | _SHAPES | _CONSTRAINTS.keys():
                raise DefinitionError(
                    f"{self._what} has a type that cannot be stored: its JSON schema has '{keyword}'",
                    hint="use texts, numbers, booleans, dates, Literal, Enum, lists, dicts, dataclasses or pydantic models",
                )

    def _build_shape(self, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401, PLR0911  (one case for each shape)
        if "$ref" in schema:
            return self._build_reference(schema["$ref"].removeprefix("#/$defs/"))
        if "const" in schema or "enum" in schema:
            return Literal[tuple(schema.get("enum", (schema.get("const"),)))]
        if "anyOf" in schema:
            return Union[tuple(self.build(each) for each in schema["anyOf"])]  # noqa: UP007  (of a computed tuple)
        match schema.get("type"):
            case None:
                return Any
            case "array":
                return self._build_array(schema)
            case "object":
                return self._build_object(schema)
            case scalar:
                return self._find_format(schema["format"]) if "format" in schema else _SCALARS[scalar]

    def _find_format(self, name: str) -> Any:  # noqa: ANN401  (a type)
        import datetime as dt
        import uuid

        formats = {
            "date": dt.date,
            "date-time": dt.datetime,
            "time": dt.time,
            "duration": dt.timedelta,
            "uuid": uuid.UUID,
        }
        if name not in formats:
            raise DefinitionError(
                f"{self._what} has a type that cannot be stored: its JSON schema has the format '{name}'",
                hint="use str, and check the format in the code that calls the prompt",
            )
        return formats[name]

    def _build_reference(self, name: str) -> Any:  # noqa: ANN401  (a type, or the name of one that is being built)
        if name not in self._named:
            self._named[name] = typing.ForwardRef(name)
            built = self.build(self._definitions[name])
            self._named[name] = built
            if isinstance(built, type) and hasattr(built, "model_rebuild"):
                built.model_rebuild(_types_namespace=dict(self._named), raise_errors=False)
        return self._named[name]

    def _build_array(self, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a type)
        if "prefixItems" in schema:
            return tuple[tuple(self.build(item) for item in schema["prefixItems"])]  # type: ignore[misc]  # of a computed tuple
        return list[self.build(schema.get("items", {}))]  # type: ignore[misc]  # of a computed type

    def _build_object(self, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a type)
        """Return a dict type for an object without named properties, a typed dict if an optional property has no default, else a model."""
        properties: Mapping[str, Any] = schema.get("properties", {})
        additional = schema.get("additionalProperties")
        if not properties and additional not in (None, False):
            return dict[str, self.build(additional) if isinstance(additional, dict) else Any]  # type: ignore[misc]  # of a computed type
        title, required = str(schema.get("title", "Object")), set(schema.get("required", ()))
        kinds = {name: self.build(each) for name, each in properties.items()}
        extra = _ExtraProperties(additional, self.build(additional) if isinstance(additional, dict) else None)
        if any("default" not in properties[name] for name in properties if name not in required):
            return _build_typed_dict(title, kinds, required, extra)
        fields = {name: (kind, ... if name in required else properties[name]["default"]) for name, kind in kinds.items()}
        return _build_model(title, fields, extra)


@dataclass(frozen=True)
class _ExtraProperties:
    """How an object treats properties that its schema does not name.

    Parameters
    ----------
    additional
        ``additionalProperties`` of the schema: None ignores them, False forbids them, anything else keeps them.
    kind
        The type of these properties; None for any type.
    """

    additional: Any
    kind: Any

    @property
    def mode(self) -> Literal["ignore", "forbid", "allow"]:
        """The value of pydantic's setting ``extra``."""
        return "ignore" if self.additional is None else "forbid" if self.additional is False else "allow"


def _build_model(title: str, fields: dict[str, Any], extra: _ExtraProperties) -> Any:  # noqa: ANN401  (a type)
    import pydantic

    config = pydantic.ConfigDict(extra=extra.mode, validate_default=True, protected_namespaces=())
    namespace: dict[str, Any] = {"model_config": config, "__module__": __name__}
    if extra.kind is not None:
        namespace["__annotations__"] = {"__pydantic_extra__": dict[str, extra.kind]}  # type: ignore[name-defined]  # of a computed type
    base = types.new_class(title, (pydantic.BaseModel,), exec_body=lambda body: body.update(namespace))
    return pydantic.create_model(title, __base__=base, **fields)


def _build_typed_dict(title: str, kinds: Mapping[str, Any], required: set[str], extra: _ExtraProperties) -> Any:  # noqa: ANN401  (a type)
    import pydantic
    import typing_extensions

    fields = {name: kind if name in required else typing_extensions.NotRequired[kind] for name, kind in kinds.items()}
    make: Any = typing_extensions.TypedDict
    built = make(title, fields) if extra.kind is None else make(title, fields, extra_items=extra.kind)
    if extra.kind is None:
        built.__pydantic_config__ = pydantic.ConfigDict(extra=extra.mode)
    return built
