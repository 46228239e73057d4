"""Texts of traces are shown in a readable form, whose size is bounded by that of the text."""

import json

from mlops_assets.compute.text import indent_json


def test_json_is_indented_up_to_twenty_levels() -> None:
    flat, deep = "[" * 20 + "1" + "]" * 20, "[" * 21 + "1" + "]" * 21
    text = indent_json(json.dumps({"question": "late?", "steps": [1, {"a": []}]}))
    assert text == json.dumps({"question": "late?", "steps": [1, {"a": []}]}, indent=2)
    assert indent_json(flat) != flat or len(json.dumps(json.loads(flat), indent=2)) > 10 * len(flat)
    assert indent_json(deep) == deep


def test_indentation_makes_no_text_more_than_ten_times_as_long() -> None:
    for levels in (1, 5, 12, 19, 20, 900):
        hostile = "[" * levels + ",".join(["1"] * 50_000) + "]" * levels
        assert len(indent_json(hostile)) <= 10 * len(hostile)
    assert indent_json("[" * 12 + ",".join(["1"] * 50_000) + "]" * 12) == "[" * 12 + ",".join(["1"] * 50_000) + "]" * 12
    assert indent_json("[[1,2],[3]]") == json.dumps([[1, 2], [3]], indent=2)
