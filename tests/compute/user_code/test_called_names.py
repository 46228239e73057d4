"""A function that calls another one is found, however it is imported, wrapped or called by a helper of the same module."""

import functools
import types

import mlops_assets as ml
from mlops_assets.compute.user_code.called_names import mentions_name
from mlops_assets.llm import read_labels as labels_of

NAME = "read_labels"


def read_helper(name: str):
    return labels_of(name) if name else read_helper("again")


def call_by_attribute():
    return ml.llm.read_labels("a")


def call_by_alias():
    return labels_of("a")


def call_in_a_comprehension():
    return [labels_of(name) for name in ("a", "b")]


def call_by_helper():
    return read_helper("a")


@functools.wraps(call_by_helper)
def wrapped():
    return call_by_helper


def call_nothing():
    """This function only speaks of read_labels."""
    return "read_labels"


def test_every_way_of_calling_is_found() -> None:
    functions: list[types.FunctionType] = [call_by_attribute, call_by_alias, call_in_a_comprehension, call_by_helper, wrapped]
    assert [mentions_name(function, NAME) for function in functions] == [True] * 5


def test_a_text_is_no_call_and_a_circle_of_helpers_ends() -> None:
    assert not mentions_name(call_nothing, NAME)
    assert not mentions_name(read_helper, "read_table")
    assert not mentions_name(len, NAME)
