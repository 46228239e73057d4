"""A score is a number from 0 to 1 or a stated error."""

import json
import math
import re
import string
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.llm_evaluation import scorers
from mlops_assets.compute.llm_evaluation.scorers import (
    Score,
    score_edit_similarity,
    score_exact,
    score_json_schema,
    score_reciprocal_rank,
    score_regex,
    score_retrieval_hit,
    score_token_f1,
    score_verdict,
)
from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict
from mlops_assets.errors import DefinitionError
from mlops_assets.values.llm.judge import FAILURES

TEXTS = st.one_of(st.text(max_size=12), st.text("ab cA.", max_size=12))
PAIRWISE = [score_exact, score_token_f1, score_edit_similarity]


@pytest.mark.parametrize("scorer", PAIRWISE)
@settings(deadline=None)
@given(one=st.none() | TEXTS, other=st.none() | TEXTS)
def test_every_pair_of_texts_has_a_score_from_0_to_1_or_an_error(scorer, one, other) -> None:
    found = scorer(one, other)
    assert found.failed == (one is None or other is None) == bool(found.error)
    assert found.failed or 0 <= found.value <= 1
    assert scorer(other, one).value == found.value
    if one is not None:
        assert scorer(one, one).value == 1


@cache
def distance(one: str, other: str) -> int:
    """The recursive definition of Levenshtein's distance."""
    if not one or not other:
        return len(one) + len(other)
    return min(distance(one[1:], other) + 1, distance(one, other[1:]) + 1, distance(one[1:], other[1:]) + (one[0] != other[0]))


@settings(deadline=None)
@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_the_edit_similarity_is_that_of_the_recursive_definition(one: str, other: str) -> None:
    longest = max(len(one), len(other))
    assert score_edit_similarity(one, other).value == pytest.approx(1 - distance(one, other) / longest if longest else 1)


def squad_f1(answer: str, expected: str) -> float:
    """As in the evaluation script of SQuAD 2.0."""

    def tokens(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    mine, theirs = tokens(answer), tokens(expected)
    same = sum((Counter(mine) & Counter(theirs)).values())
    if not mine or not theirs:
        return float(mine == theirs)
    return 0.0 if not same else 2 * (same / len(mine)) * (same / len(theirs)) / (same / len(mine) + same / len(theirs))


@settings(deadline=None)
@given(
    *[st.lists(st.sampled_from(["the", "An", "a", "late", "Late.", "(late)", "flight", "15", ",", "min-utes"]), max_size=8).map(" ".join)]
    * 2
)
def test_the_token_f1_is_that_of_squad(answer: str, expected: str) -> None:
    assert score_token_f1(answer, expected).value == pytest.approx(squad_f1(answer, expected))


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (score_exact(" 15\n", "15"), 1),
        (score_exact("15 Minutes", "15 minutes"), 0),
        (score_token_f1("“The” flight!", "flight"), 1),
        (score_token_f1("late", "on time"), 0),
        (score_edit_similarity("LATE\n flight", "late flight"), 1),
        (score_edit_similarity("kitten", "sitting"), 1 - 3 / 7),
        (score_edit_similarity("", "abc"), 0),
        (score_regex("it was 15 minutes", r"\d+"), 1),
        (score_regex("it was late", r"\d+"), 0),
        (score_regex("", ""), 1),
    ],
)
def test_scores_by_hand(found: Score, value: float) -> None:
    assert found.value == pytest.approx(value)


def test_long_texts_are_an_error_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "MAX_CHARACTERS", 5)
    assert score_edit_similarity("abcde", "abcde").value == 1
    assert "6 characters is too long" in score_edit_similarity("a", "abcdef").error


IDS = st.lists(st.sampled_from("abcdef"), max_size=6)


@settings(deadline=None)
@given(IDS, IDS, st.none() | st.integers(1, 7))
def test_the_rank_is_that_of_the_first_relevant_document(retrieved: list[str], relevant: list[str], top: int | None) -> None:
    hit, rank = score_retrieval_hit(retrieved, relevant, top=top), score_reciprocal_rank(retrieved, relevant, top=top)
    if not relevant:
        assert hit.error == rank.error == "the case names no relevant document"
        return
    seen = retrieved[: len(retrieved) if top is None else top]
    places = [place + 1 for place, document in enumerate(seen) if document in relevant]
    assert hit.value == float(bool(places))
    assert rank.value == (1 / min(places) if places else 0)


def test_a_failed_retrieval_is_an_error_and_an_empty_one_is_a_miss() -> None:
    assert "retrieval failed" in score_retrieval_hit(None, ["a"]).error
    assert "retrieval failed" in score_reciprocal_rank(None, ["a"]).error
    assert score_retrieval_hit([], ["a"]).value == score_reciprocal_rank([], ["a"]).value == 0
    assert score_retrieval_hit(["a"], None).failed
    with pytest.raises(DefinitionError, match="top 0"):
        score_retrieval_hit(["a"], ["a"], top=0)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_verdict_has_no_score_even_if_points_are_declared(failure: str) -> None:
    found = score_verdict(JudgeVerdict(failure, "why"), {failure: 1.0, "yes": 1.0})
    assert (found.value, found.error) == (None, f"{failure}: why")


@pytest.mark.parametrize("points", [{}, {"yes": math.nan}, {"yes": 2.0}, {"yes": -0.1}])
def test_a_verdict_without_valid_points_is_an_error(points: dict[str, float]) -> None:
    assert "the verdict 'yes' has" in score_verdict(JudgeVerdict("yes"), points).error


@pytest.mark.parametrize(("value", "error"), [(None, ""), (0.5, "also"), (math.nan, ""), (1.1, ""), (-0.1, ""), (math.inf, "")])
def test_a_score_that_is_none_cannot_be_made(value: float | None, error: str) -> None:
    with pytest.raises(ValueError, match="score"):
        Score(value, error)


SCHEMA = {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"minutes": 15}', ""),
        ('{"minutes": 15', "the answer is no JSON"),
        ("", "the answer is no JSON"),
        ('```json\n{"minutes": 15}\n```', "the answer is no JSON"),
        ('{"minutes": NaN}', "NaN is no JSON number"),
        ('{"minutes": 1e999}', "too large"),
        ('{"minutes": 1, "minutes": 2}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"minutes": "15"}', "$.minutes: '15' is not of type 'integer'"),
        ('{"hours": 1, "minutes": 2}', "'hours' was unexpected"),
        (json.dumps({"minutes": "x" * 500}), "…"),
    ],
)
def test_an_answer_is_json_that_fits(answer: str, reason: str) -> None:
    found = score_json_schema(answer, SCHEMA)
    assert found.value == float(not reason)
    assert reason in found.reason
    assert len(found.reason) < 200


def test_a_missing_answer_and_a_wrong_declaration_are_no_scores() -> None:
    assert score_json_schema(None, SCHEMA).error == score_regex(None, "a").error == "the answer is missing"
    for answer in (None, "no JSON", "1"):
        with pytest.raises(DefinitionError, match="unknown keyword"):
            score_json_schema(answer, {"multipleof": 2})
        with pytest.raises(DefinitionError, match="not a regular expression"):
            score_regex(answer, "(")


@pytest.mark.parametrize("depth", [100, 900, 990, 1_000, 3_000, 30_000, 300_000])
def test_a_deeply_nested_answer_does_not_fit_and_raises_nothing(depth: int) -> None:
    assert score_json_schema("[" * depth + "]" * depth, SCHEMA).value == 0
    assert score_json_schema("[" * depth + "]" * depth, {"type": "array", "items": {"const": 1}}).value == 0
