"""The declaration of an evaluation and its scorers: what is refused, by name, before anything runs."""

import re

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError

SMOL = ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1")


@ml.llm.prompt(model=SMOL)
def reply(question: str, style: str = "plain") -> None:
    """Answer the question."""


@ml.dataset(key="case")
def questions() -> pl.DataFrame:
    return pl.DataFrame({"case": ["a"], "question": ["?"], "expected": ["!"], "airline": ["AA"]})


@ml.dataset
def unnamed() -> pl.DataFrame:
    return pl.DataFrame({"question": ["?"]})


def declare(**more):
    return ml.llm.PromptEvaluation("replies", **{"prompt": reply, "cases": questions, "scorers": [ml.llm.ExactMatch("expected")]} | more)


def test_an_evaluation_names_its_table_and_the_columns_that_it_reads() -> None:
    found = declare(slices="airline")
    assert (found.key, found.slices, found.max_error_rate) == ("evaluation/replies", ("airline",), 0.0)
    assert found.required_columns == {
        "airline": "slices=",
        "expected": "the scorer 'exact_match'",
        "question": "the variable 'question' of 'prompt/reply'",
        "case": "the key",
    }


def plain(answer: str) -> float:
    return float(bool(answer))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"cases": unnamed}, "cases of 'dataset/unnamed', which has no key"),
        ({"scorers": []}, "has no scorer"),
        ({"scorers": [plain]}, "was given 'plain' as a scorer"),
        ({"scorers": [ml.llm.ExactMatch("a"), ml.llm.ExactMatch("b")]}, "two columns named 'exact_match'"),
        ({"scorers": [ml.llm.ExactMatch("a", name="answer")]}, "two columns named 'answer'"),
        ({"scorers": [ml.llm.ExactMatch("a", name="airline")], "slices": ["airline"]}, "two columns named 'airline'"),
        ({"scorers": [ml.llm.ExactMatch("a", name="Exact!")]}, "a scorer cannot be named 'Exact!'"),
        ({"max_error_rate": 1.5}, "max_error_rate=1.5"),
        ({"max_error_rate": float("nan")}, "max_error_rate=nan"),
        ({"cases": "questions"}, "was given 'questions' as 'cases', which takes a Dataset or a ExternalDataset"),
    ],
)
def test_a_wrong_evaluation_is_refused(change, problem) -> None:
    with pytest.raises(DefinitionError, match=re.escape(problem)):
        declare(**change)


def test_a_scorer_is_still_its_function_and_knows_its_columns() -> None:
    @ml.llm.scorer
    def close(answer: str, expected: str, note: str | None) -> float:
        return float(answer == expected)

    assert close(answer="a", expected="a", note=None) == 1.0
    assert (close.name, close.columns, close.nullable) == ("close", ("expected", "note"), {"note"})


def without_answer(expected: str) -> float:
    return float(bool(expected))


def with_the_rest(answer: str, **columns: str) -> float:
    return float(answer in columns)


def with_an_unknown_type(answer: "Missing") -> float:  # noqa: F821
    return float(bool(answer))


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (without_answer, "@ml.llm.scorer 'without_answer' has no parameter 'answer'"),
        (with_the_rest, "@ml.llm.scorer 'with_the_rest' takes '**columns: str'"),
        (with_an_unknown_type, "an annotation cannot be resolved: name 'Missing' is not defined"),
    ],
)
def test_a_wrong_scorer_function_is_refused(function, problem) -> None:
    with pytest.raises(DefinitionError, match=re.escape(problem)):
        ml.llm.scorer(function)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: ml.llm.RegexMatch("("), "is not a regular expression"),
        (lambda: ml.llm.JsonSchemaMatch({"const": {1}}), "the schema of the scorer 'json_schema_match' is not JSON"),
        (lambda: ml.llm.RetrievalHit("a", "b", top=0), "considers the top 0 documents"),
    ],
)
def test_a_wrong_built_in_scorer_is_refused(make, problem) -> None:
    with pytest.raises(DefinitionError, match=problem):
        make()
