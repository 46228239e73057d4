"""Types that are made from JSON schemas accept and refuse what the original types do."""

import dataclasses
import json
from typing import Any

import pydantic
import pytest
import typing_extensions

from mlops_assets.compute.prompts.schema_types import build_type
from mlops_assets.compute.prompts.version import build_json_schema


class Forbidding(pydantic.BaseModel, extra="forbid"):
    a: int
    tags: list[str] = pydantic.Field(default_factory=list)


class Allowing(pydantic.BaseModel, extra="allow"):
    a: int
    b: float = 0.5


class AllowingWithFactory(pydantic.BaseModel, extra="allow"):
    a: int
    tags: list[str] = pydantic.Field(default_factory=list)


class Typed(pydantic.BaseModel, extra="allow"):
    __pydantic_extra__: dict[str, int]
    a: int


class TypedWithFactory(Typed, extra="allow"):
    tags: list[str] = pydantic.Field(default_factory=list)


class Empty(pydantic.BaseModel):
    pass


class EmptyForbidding(pydantic.BaseModel, extra="forbid"):
    pass


@dataclasses.dataclass
class Plain:
    a: int
    tags: list[str] = dataclasses.field(default_factory=list)


class ForbiddingDict(typing_extensions.TypedDict):
    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # type: ignore[misc]
    a: int
    b: typing_extensions.NotRequired[int]


class Nested(pydantic.BaseModel):
    inner: list[Forbidding]
    by_name: dict[str, Allowing] = {}


DOCUMENTS = [
    '{"a": 1}', '{"a": 1, "z": 2}', '{"a": 1, "z": "x"}', '{"a": 1, "b": 1.5}', '{"a": 1, "tags": ["x"]}', "{}", "[]", '{"a": "x"}',
    '{"inner": [{"a": 1}]}', '{"inner": [{"a": 1, "z": 2}]}', '{"inner": [], "by_name": {"x": {"a": 1, "z": 2}}}',
]  # fmt: skip


def _read(kind: Any, document: str) -> Any:
    """Return the JSON values that a type makes of a document; "refused" when it refuses it."""
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
    try:
        return adapter.dump_python(adapter.validate_json(document, strict=True), mode="json")
    except pydantic.ValidationError:
        return "refused"


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize(
    "kind",
    [
        Forbidding, Allowing, AllowingWithFactory, Typed, TypedWithFactory, Empty, EmptyForbidding, Plain, ForbiddingDict, Nested,
        dict[str, int], dict[str, Any],
    ],
)  # fmt: skip
def test_a_stored_type_reads_what_the_original_type_reads(kind, document) -> None:
    schema = build_json_schema(kind)
    expected, stored = _read(kind, document), _read(build_type(json.loads(json.dumps(schema)), "the response"), document)
    assert _drop_made_values(stored) == _drop_made_values(expected)


def _drop_made_values(value: Any) -> Any:
    """Return JSON values without empty lists of tags, which only a default factory makes."""
    if isinstance(value, dict):
        return {name: _drop_made_values(item) for name, item in value.items() if (name, item) != ("tags", [])}
    return [_drop_made_values(item) for item in value] if isinstance(value, list) else value
