"""The declaration of a prompt: what its signature, docstring and examples must be."""

from enum import Enum
from typing import Literal

import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError

SMOL = ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1")


class Tone(Enum):
    PLAIN = "plain"
    FORMAL = "formal"


def declare(function, **more):
    return ml.llm.prompt(model=SMOL, **more)(function)


def test_a_prompt_is_still_its_function_and_knows_its_variables() -> None:
    @ml.llm.prompt(model=SMOL)
    def answer(question: str, facts: list[str], tone: Tone = Tone.PLAIN) -> str:
        """Answer in a {tone} tone."""
        return f"{question}: {len(facts)}"

    assert answer("How many?", ["a", "b"]) == "How many?: 2"
    assert (answer.name, answer.key) == ("answer", "prompt/answer")
    assert [(v.name, v.annotation, v.is_required, v.is_closed) for v in answer.variables] == [
        ("question", str, True, False),
        ("facts", list[str], True, False),
        ("tone", Tone, False, True),
    ]


def empty(question: str) -> None:
    """Answer."""


def only_dots(question: str) -> None:
    """Answer."""


def returns(question: str) -> str:
    """Answer."""
    return question


def constant() -> str:
    return "Say hello."


@pytest.mark.parametrize(("function", "has_body"), [(empty, False), (only_dots, False), (returns, True), (constant, True)])
def test_a_function_with_a_docstring_alone_has_no_body(function, has_body) -> None:
    assert declare(function).has_body is has_body


def text_placeholder(question: str) -> None:
    """Answer {question}."""


def unknown_placeholder(count: int) -> None:
    """Answer in {cuont} words."""


def open_brace(count: int) -> None:
    """Answer in {count words."""


def untyped(question) -> None:
    """Answer."""


def several(*questions: str) -> None:
    """Answer."""


def nothing(question: str) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (text_placeholder, "'{question}', whose values may contain instructions of their own"),
        (unknown_placeholder, "'{cuont}', which is not a variable"),
        (open_brace, "the instructions cannot be read"),
        (untyped, "variable 'question' has no annotation"),
        (several, "takes *questions"),
        (nothing, "has neither instructions nor a body"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused_by_name(function, text) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare(function)
    assert text in caught.value.message
    assert f"@ml.llm.prompt '{function.__name__}'" in caught.value.message


@pytest.mark.parametrize(
    ("variables", "text"),
    [({}, "lacks the variable 'question'"), ({"question": "?", "qestion": "?"}, "has no variable 'qestion'")],
)
def test_an_example_has_each_variable_once(variables, text) -> None:
    with pytest.raises(DefinitionError, match=text):
        declare(empty, examples=[ml.llm.FewShotExample(variables, "42")])


@pytest.mark.parametrize(
    ("annotation", "closed"),
    [
        (int, True),
        (float, True),
        (bool, True),
        (Tone, True),
        (Literal["a", "b"], True),
        (int | None, True),
        (str, False),
        (str | None, False),
        (list[int], False),
    ],
)
def test_only_numbers_and_members_of_fixed_lists_may_stand_in_instructions(annotation, closed) -> None:
    def counted(value) -> None:
        """Answer with {value}."""

    counted.__annotations__["value"] = annotation
    if closed:
        assert declare(counted).variables[0].is_closed
    else:
        with pytest.raises(DefinitionError, match="may contain instructions"):
            declare(counted)
