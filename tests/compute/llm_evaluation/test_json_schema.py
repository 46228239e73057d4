"""The small validator decides as jsonschema does, and refuses a schema that it does not understand."""

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.llm_evaluation.json_schema import check_schema, find_fault
from mlops_assets.errors import DefinitionError

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.0, 1.0, 1.5, -2.5]), st.text("ab", max_size=3))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=6
)
TYPES = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])
COUNTS, NUMBERS = st.integers(0, 3), st.sampled_from([-2, 0, 1, 1.5])


def make_schemas(inner: st.SearchStrategy) -> st.SearchStrategy:
    some = st.lists(inner, min_size=1, max_size=2)
    keywords = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
        "const": VALUES,
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
        "pattern": st.sampled_from(["a", "^b", "a$", "^(ab)*$"]),
        "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        "additionalProperties": inner,
        "items": inner,
        "not": inner,
        **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems"], COUNTS),
        **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], NUMBERS),
        **dict.fromkeys(["anyOf", "allOf", "oneOf"], some),
        "description": st.just("a note"),
    }
    names = st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: keywords[name] for name in chosen}))


SCHEMAS = st.recursive(st.booleans() | st.builds(lambda name: {"type": name}, TYPES), make_schemas, max_leaves=4)


@settings(max_examples=400, deadline=None)
@given(VALUES, make_schemas(SCHEMAS))
def test_a_value_fits_when_jsonschema_says_so(value: object, schema: dict) -> None:
    fault = find_fault(value, schema)
    assert (not fault) == jsonschema.Draft202012Validator(schema).is_valid(value)
    assert not fault or fault.startswith("$")


@pytest.mark.parametrize(
    ("value", "schema", "fault"),
    [
        ({"a": [1, "x"]}, {"properties": {"a": {"items": {"type": "integer"}}}}, '$.a[1]: "x" is not of type "integer"'),
        ({"a": 1}, {"additionalProperties": {"type": "string"}}, '$.a: 1 is not of type "string"'),
        ({}, {"required": ["a"]}, '$: {} lacks one of ["a"]'),
        (1, False, "$: no value is allowed here"),
        (True, {"enum": [1]}, "$: true is none of [1]"),
        (2, {"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "$: 2 does not fit exactly one of oneOf"),
    ],
)
def test_a_fault_says_where_and_why(value: object, schema: object, fault: str) -> None:
    assert find_fault(value, schema) == fault


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"format": "date"}, "unknown keyword 'format' at \\$"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "unknown keyword '\\$ref' at \\$.properties.a"),
        ({"anyOf": [{}, {"minimun": 3}]}, "'minimun' at \\$.anyOf.1\nHint: did you mean 'minimum'"),
        ({"type": "text"}, "type 'text'"),
        ({"type": []}, "type \\[\\]"),
        ({"type": [1]}, "type \\[1\\]"),
        ({"minimum": "3"}, "minimum '3'"),
        ({"minimum": float("nan")}, "minimum nan"),
        ({"maxLength": -1}, "maxLength -1"),
        ({"pattern": "("}, "pattern"),
        ({"required": "a"}, "required 'a'"),
        ({"items": [{}]}, "items"),
        ({"anyOf": []}, "anyOf"),
        ({"properties": {"a": 1}}, "1 at \\$.properties.a"),
        ([], "has \\[\\] at \\$"),
    ],
)
def test_a_schema_that_is_not_understood_is_refused_whatever_the_value_is(schema: object, message: str) -> None:
    for value in ({}, "text", None):
        with pytest.raises(DefinitionError, match=message):
            find_fault(value, schema)


def test_a_schema_without_end_is_refused() -> None:
    schema: dict = {}
    schema["not"] = schema
    with pytest.raises(DefinitionError, match="deep"):
        check_schema(schema)
