"""A request is taken exactly as the model wants it, and a refusal names the place and repeats nothing."""

import json
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.serving.http.openapi import build_openapi
from mlops_assets.serving.predict.request_schema import RequestError, RequestSchema
from tests.serving.support import describe_request_fields, row

NOON = 1_364_817_600_000_000
TYPES = {"carrier": "String", "distance": "Int16", "wind": "Float32"}
SCHEMA = RequestSchema(describe_request_fields(), TYPES, max_rows=3)


def refusal(body) -> RequestError:
    with pytest.raises(RequestError) as caught:
        SCHEMA.decode(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def test_one_row_or_a_list_of_rows() -> None:
    one = SCHEMA.decode(json.dumps(row(1)).encode())
    assert (one.count, one.at, dict(one.columns)) == (
        1,
        [NOON],
        {"at": [NOON], "carrier": ("B6",), "distance": (101,), "wind": (0.5,), "flight": (None,)},
    )
    many = SCHEMA.decode(json.dumps([row(1, flight="x"), row(2, at="2013-04-01T14:00:00+02:00")]).encode())
    assert (many.count, many.at, many.columns["flight"]) == (2, [NOON, NOON], ("x", None))
    assert SCHEMA.decode(b"[]").count == 0


def test_what_may_be_left_out_is_now_and_null() -> None:
    rows = SCHEMA.decode(b'{"carrier": "AA", "distance": 1, "wind": null}')
    assert rows.columns["flight"] == (None,)
    assert rows.at[0] > NOON
    assert rows.at == rows.columns["at"]


def test_whole_numbers_are_taken_for_numbers_and_not_the_other_way() -> None:
    assert SCHEMA.decode(json.dumps(row(wind=3)).encode()).columns["wind"] == (3.0,)
    assert refusal(row(distance=3.0)).where == {"row": 0, "field": "distance", "expected": "int"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"carrier": NaN}', json.dumps(row(wind=float("inf"))).encode()])
def test_what_is_not_json_is_400(body) -> None:
    assert refusal(body).status == 400


def test_too_many_rows_are_413() -> None:
    assert refusal([row()] * 4).status == 413


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"at": "2013-04-01T12:00:00"}, "row 1: the time 'at' has no time zone\nHint: give a time zone, e.g. 2013-04-01T12:00:00Z"),
        ({"at": "yesterday"}, "row 1: field 'at' must be a time with its zone"),
        ({"at": None}, "row 1: field 'at' must be a time with its zone"),
        ({"at": "0001-01-01T00:00:00+14:00"}, "row 1: the time 'at' is not between 1700 and 2262"),
        ({"carrier": None}, "row 1: field 'carrier' must be a string"),
        ({"carrier": 3}, "row 1: field 'carrier' must be a string"),
        ({"distance": True}, "row 1: field 'distance' must be a whole number"),
        ({"distance": 40_000}, "row 1: field 'distance' must be a whole number.*within the range"),
        ({"distance": 10**30}, "row 1: field 'distance' must be a whole number"),
        ({"wind": 1e300}, "row 1: field 'wind' must be a number or null.*within the range"),
        ({"wind": "1"}, "row 1: field 'wind' must be a number or null"),
        ({"flight": 3}, "row 1: field 'flight' must be a string"),
        ({"distnace": 3}, "row 1 has a field that the model does not accept\nHint: did you mean 'distance'"),
    ],
)
def test_a_refusal_names_row_and_field_and_type(change, words) -> None:
    error = refusal([row(), row() | change])
    assert error.status == 422
    assert re.search(words, str(error), re.DOTALL), str(error)
    assert error.where["row"] == 1


def test_a_missing_field_and_a_body_that_is_no_row_are_named() -> None:
    lacking = {name: value for name, value in row().items() if name != "wind"}
    assert refusal(lacking).message == "row 0 lacks the field 'wind'"
    assert refusal([row(), 3]).message == "row 1 must be an object"
    assert refusal(b"3").message == "the body must be an object or a list of objects"


SECRET = st.text(string.ascii_lowercase, min_size=9, max_size=12).map(lambda text: f"q{text}q")
WRONG = st.one_of(SECRET, SECRET.map(lambda s: [s]), SECRET.map(lambda s: {s: s}), SECRET.map(lambda s: f"2013-{s}"))
NUMBER = st.integers(10**19, 10**30)


@given(field=st.sampled_from(["at", "distance", "wind", "elsewhere"]), wrong=WRONG, many=st.booleans())
def test_a_refusal_never_repeats_what_was_sent(field, wrong, many) -> None:
    name = wrong if field == "elsewhere" and isinstance(wrong, str) else field
    body = row() | {name: wrong}
    text = refusal([row(), body] if many else body).body.decode()
    for secret in (part for part in json.dumps(wrong).split('"') if part.startswith(("q", "2013-"))):
        assert secret.removeprefix("2013-") not in text


@given(number=NUMBER, field=st.sampled_from(["distance", "carrier", "flight", "at"]))
def test_a_refusal_never_repeats_a_number(number, field) -> None:
    assert str(number) not in refusal(row() | {field: number}).body.decode()


@given(name=st.sampled_from(["x` - at `$[123456789]", "x - at `$.123456789`", "`123456789`", "$[123456789]"]), many=st.booleans())
def test_the_name_of_an_unknown_field_is_not_repeated_even_when_it_looks_like_a_place(name, many) -> None:
    body = row() | {name: 1}
    assert "123456789" not in refusal([row(), body] if many else body).body.decode()


@given(st.binary(max_size=60))
def test_no_bytes_break_the_decoder(body) -> None:
    assert refusal(body).status in (400, 422) if body.strip() != b"[]" else True


def test_names_that_are_no_identifiers_are_taken() -> None:
    fields = [{"name": n, "type": "float", "nullable": False, "role": "column"} for n in ("wind speed", "class", "a`b", "é", "$.x")]
    schema = RequestSchema(fields, {}, max_rows=3)
    assert schema.decode(json.dumps({f["name"]: 1.5 for f in fields}).encode()).columns["a`b"] == (1.5,)
    for name in ("wind speed", "a`b", "é", "$.x"):
        with pytest.raises(RequestError) as caught:
            schema.decode(json.dumps({f["name"]: 1.5 for f in fields} | {name: "x"}).encode())
        assert caught.value.where["field"] == name


def test_the_description_is_valid_openapi_and_says_what_is_decoded_and_sent() -> None:
    from openapi_spec_validator import validate

    document = build_openapi("lateness", 3, SCHEMA)
    validate(document)
    schemas = document["components"]["schemas"]
    made = schemas["Row"]
    assert made["required"] == ["carrier", "distance", "wind"]
    assert made["additionalProperties"] is False
    assert made["properties"]["distance"]["maximum"] == 2**15 - 1
    assert made["properties"]["wind"]["anyOf"][1] == {"type": "null"}
    assert made["properties"]["at"] == {"type": "string", "format": "date-time", "description": made["properties"]["at"]["description"]}
    assert list(schemas["Reply"]["properties"]) == ["model", "version", "probability_of", "predictions"]
    assert schemas["Prediction"]["required"] == ["id", "prediction", "probability", "probabilities", "missing"]
    assert {"error", "hint", *refusal(row(distance="x")).where} == set(schemas["Error"]["properties"])
    rows = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert rows[1]["maxItems"] == 3
