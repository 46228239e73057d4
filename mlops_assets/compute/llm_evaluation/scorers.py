"""Score one answer of an LLM: a number from 0 to 1, or a stated error.

An error is not a score of 0. A scorer returns an error when something to compare is missing or invalid, and a mean over scores must
count the errors.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.llm_evaluation.json_schema import find_fault, parse_json
from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict

MAX_CHARACTERS = 10_000  # of each text whose edit distance is computed
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Score:
    """The score of one answer.

    Parameters
    ----------
    value : float or None
        From 0 to 1; None when there is an error.
    error : str
        Why there is no score; empty when there is one.
    reason : str
        An explanation of the score, such as the first fault of a JSON value.

    Raises
    ------
    ValueError
        Value and error are both set or both unset, or the value is not from 0 to 1.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import Score
    >>> Score(0.5).failed, Score(error="the answer is missing").failed
    (False, True)
    """

    value: float | None = None
    error: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        """Require a value from 0 to 1 or an error, and never both."""
        if (self.value is None) != bool(self.error):
            raise ValueError("a score is a value or an error")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"the score {self.value} is not between 0 and 1")

    @property
    def failed(self) -> bool:
        """Whether there is no score."""
        return self.value is None


def score_verdict(verdict: JudgeVerdict, points: Mapping[str, float]) -> Score:
    """Return the points of a judge's verdict.

    Parameters
    ----------
    verdict : JudgeVerdict
        The verdict.
    points : Mapping[str, float]
        The score of each verdict that the judge may give.

    Returns
    -------
    Score
        The points; an error for a failed verdict, a verdict without points, or points outside 0 to 1.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_verdict
    >>> from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict
    >>> score_verdict(JudgeVerdict("supported"), {"supported": 1.0, "unsupported": 0.0}).value
    1.0
    >>> score_verdict(JudgeVerdict("timeout", "no byte in 5 s"), {"supported": 1.0}).error
    'timeout: no byte in 5 s'
    """
    if verdict.failed:
        return Score(error=f"{verdict.value}: {verdict.reason}")
    if verdict.value not in points:
        return Score(error=f"the verdict '{verdict.value}' has no points")
    value = points[verdict.value]
    return Score(float(value)) if 0 <= value <= 1 else Score(error=f"the verdict '{verdict.value}' has {value} points, not 0 to 1")


def score_exact(answer: str | None, expected: str | None) -> Score:
    """Return 1 when the answer is the expected text, apart from space at the ends of both.

    Parameters
    ----------
    answer, expected : str or None
        The answer and the text that it must be; None where there is none.

    Returns
    -------
    Score
        0 or 1; an error when a text is missing.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_exact
    >>> score_exact("15 minutes ", "15 minutes").value, score_exact("about 15 minutes", "15 minutes").value
    (1.0, 0.0)
    """
    if answer is None or expected is None:
        return _report_missing(answer)
    return Score(float(answer.strip() == expected.strip()))


def score_regex(answer: str | None, pattern: str) -> Score:
    r"""Return 1 when a regular expression matches somewhere in the answer.

    Parameters
    ----------
    answer : str or None
        The answer.
    pattern : str
        A regular expression of Python, from the project's code: an untrusted pattern could search for hours.

    Returns
    -------
    Score
        0 or 1; an error when the answer is missing.

    Raises
    ------
    DefinitionError
        The pattern is not a regular expression.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_regex
    >>> score_regex("The delay was 15 minutes.", r"\b\d+ minutes\b").value
    1.0
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DefinitionError(f"the pattern {pattern!r} is not a regular expression: {error}", hint="correct the pattern") from None
    return _report_missing(answer) if answer is None else Score(float(compiled.search(answer) is not None))


def score_json_schema(answer: str | None, schema: Mapping[str, Any]) -> Score:
    """Return 1 when the answer is JSON that fits a schema.

    Parameters
    ----------
    answer : str or None
        The answer, JSON alone.
    schema : Mapping
        A JSON Schema.

    Returns
    -------
    Score
        0 or 1, where the reason of 0 is the first fault; an error when the answer is missing.

    Raises
    ------
    DefinitionError
        The schema is invalid, has an unknown keyword, or refers to a schema that it does not contain.
    MissingExtraError
        jsonschema is not installed.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_json_schema
    >>> score_json_schema('{"minutes": "15"}', {"type": "object", "properties": {"minutes": {"type": "integer"}}})
    Score(value=0.0, error='', reason="$.minutes: '15' is not of type 'integer'")
    """
    if answer is None:
        find_fault(None, schema)
        return _report_missing(answer)
    try:
        value = parse_json(answer)
    except ValueError as error:
        find_fault(None, schema)
        return Score(0.0, reason=f"the answer is no JSON: {error}")
    fault = find_fault(value, schema)
    return Score(float(not fault), reason=fault)


def score_token_f1(answer: str | None, expected: str | None) -> Score:
    """Return the F1 of the words that answer and expected text share.

    Words are normalised as in SQuAD: lower case, without punctuation and the articles *a*, *an* and *the*.

    Parameters
    ----------
    answer, expected : str or None
        The answer and the expected text.

    Returns
    -------
    Score
        From 0 to 1, and 1 when neither text has a word; an error when a text is missing.

    References
    ----------
    P. Rajpurkar et al., *SQuAD: 100,000+ Questions for Machine Comprehension of Text*, 2016.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_token_f1
    >>> score_token_f1("The flight was late.", "flight late").value
    0.8
    """
    if answer is None or expected is None:
        return _report_missing(answer)
    actual, wanted = Counter(_split_words(answer)), Counter(_split_words(expected))
    if not actual and not wanted:
        return Score(1.0)
    return Score(2 * (actual & wanted).total() / (actual.total() + wanted.total()))


def score_edit_similarity(answer: str | None, expected: str | None) -> Score:
    """Return 1 − Levenshtein distance ÷ length of the longer text.

    Texts are compared without regard to case, width of characters and amount of space.

    Parameters
    ----------
    answer, expected : str or None
        The answer and the expected text.

    Returns
    -------
    Score
        From 0 to 1, and 1 when both texts are empty; an error when a text is missing or has more than ``MAX_CHARACTERS`` characters.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_edit_similarity
    >>> score_edit_similarity("15 Minutes", "25  minutes").value
    0.9
    """
    if answer is None or expected is None:
        return _report_missing(answer)
    actual, wanted = _normalise(answer), _normalise(expected)
    length = max(len(actual), len(wanted))
    if length > MAX_CHARACTERS:
        return Score(error=f"a text of {length:,} characters is too long to compare: the maximum is {MAX_CHARACTERS:,}")
    return Score(1 - _edit_distance(actual, wanted) / length if length else 1.0)


def score_retrieval_hit(retrieved: Sequence[Hashable] | None, relevant: Sequence[Hashable] | None, *, top: int | None = None) -> Score:
    """Return 1 when a relevant document is among those retrieved; the mean over cases is the hit rate.

    Parameters
    ----------
    retrieved : Sequence or None
        The identifiers of the retrieved documents, the best first; None when the retrieval failed.
    relevant : Sequence or None
        The identifiers of the documents that answer the question.
    top : int or None
        The number of retrieved documents to consider; all when None.

    Returns
    -------
    Score
        0 or 1; an error when the retrieval failed or no document is relevant.

    Raises
    ------
    DefinitionError
        ``top`` is below 1.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_retrieval_hit
    >>> score_retrieval_hit(["JFK", "LGA", "EWR"], ["EWR"]).value, score_retrieval_hit(["JFK", "LGA", "EWR"], ["EWR"], top=2).value
    (1.0, 0.0)
    """
    rank_score = score_reciprocal_rank(retrieved, relevant, top=top)
    return rank_score if rank_score.value is None else Score(float(rank_score.value > 0))


def score_reciprocal_rank(retrieved: Sequence[Hashable] | None, relevant: Sequence[Hashable] | None, *, top: int | None = None) -> Score:
    """Return 1 ÷ the rank of the first relevant document, or 0 when none is retrieved.

    Parameters
    ----------
    retrieved : Sequence or None
        The identifiers of the retrieved documents, the best first; None when the retrieval failed.
    relevant : Sequence or None
        The identifiers of the documents that answer the question.
    top : int or None
        The number of retrieved documents to consider; all when None.

    Returns
    -------
    Score
        From 0 to 1; an error when the retrieval failed or no document is relevant.

    Raises
    ------
    DefinitionError
        ``top`` is below 1.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.scorers import score_reciprocal_rank
    >>> score_reciprocal_rank(["JFK", "LGA", "EWR"], ["LGA", "EWR"]).value
    0.5
    """
    if top is not None and top < 1:
        raise DefinitionError(f"a retrieval score considers the top {top} documents", hint="give at least 1, or None for all")
    if retrieved is None:
        return Score(error="there are no retrieved documents: the retrieval failed")
    if not relevant:
        return Score(error="the case names no relevant document")
    wanted = set(relevant)
    ranks = (rank for rank, document in enumerate(retrieved[:top], start=1) if document in wanted)
    return Score(1 / rank if (rank := next(ranks, None)) else 0.0)


def _report_missing(answer: str | None) -> Score:
    return Score(error="the answer is missing" if answer is None else "the case has no expected text")


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _split_words(text: str) -> list[str]:
    unpunctuated = "".join(character for character in text.lower() if not unicodedata.category(character).startswith("P"))
    return _ARTICLES.sub(" ", unpunctuated).split()


def _edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance, computed one row of its table at a time."""
    letters = np.array([ord(letter) for letter in second], dtype=np.int64)
    columns = np.arange(len(second) + 1)
    row = columns
    for number, letter in enumerate(first, start=1):
        changed = np.concatenate([[number], np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))])
        row = np.minimum.accumulate(changed - columns) + columns  # insertions, from left to right
    return int(row[-1])
