"""Score an answer with a declared scorer; every failure becomes the error of its score."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.groundedness.score import score_groundedness
from mlops_assets.compute.llm_evaluation.scorers import (
    Score,
    score_edit_similarity,
    score_exact,
    score_json_schema,
    score_regex,
    score_retrieval_hit,
    score_token_f1,
)
from mlops_assets.compute.user_code.user_errors import describe_error, find_user_line
from mlops_assets.values.llm.answer import ANSWER
from mlops_assets.values.llm.scorers import (
    EditSimilarity,
    ExactMatch,
    FunctionScorer,
    Groundedness,
    JsonSchemaMatch,
    PlainScorer,
    RegexMatch,
    RetrievalHit,
    TokenF1,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TEXT_SCORES = {ExactMatch: score_exact, TokenF1: score_token_f1, EditSimilarity: score_edit_similarity}


def describe_method(scorer: PlainScorer) -> str:
    """Return the method of a scorer whose computation depends on installed packages; empty for other scorers.

    Parameters
    ----------
    scorer
        The scorer.

    Raises
    ------
    DefinitionError
        Its JSON Schema is invalid.
    InstallationError
        Its packages are not installed.
    """
    match scorer:
        case JsonSchemaMatch():
            score_json_schema(None, scorer.schema)
        case Groundedness():
            return score_groundedness("", "", embeddings=scorer.embeddings).method
    return ""


def score_answer(scorer: PlainScorer, answer: str, row: Mapping[str, Any], warn: Callable[[str], object]) -> Score:
    """Return the score of an answer, or an error.

    Parameters
    ----------
    scorer
        The scorer.
    answer
        The text of the model.
    row
        Column of the case → value.
    warn
        A function that receives the text of an exception of a scorer function. The error of the score omits the text, which may repeat
        data.
    """
    match scorer:
        case ExactMatch() | TokenF1() | EditSimilarity():
            return _TEXT_SCORES[type(scorer)](answer, row[scorer.expected])
        case RegexMatch():
            return score_regex(answer, scorer.pattern)
        case JsonSchemaMatch():
            return score_json_schema(answer, scorer.schema)
        case RetrievalHit():
            return score_retrieval_hit(row[scorer.retrieved], row[scorer.relevant], top=scorer.top)
        case Groundedness():
            return _score_support(scorer, answer, row[scorer.context])
        case FunctionScorer():
            return _call_function(scorer, answer, row, warn)


def _score_support(scorer: Groundedness, answer: str, context: str | None) -> Score:
    if context is None:
        return Score(error="the case has no context")
    return Score(score_groundedness(context, answer, embeddings=scorer.embeddings).score)


def _call_function(scorer: FunctionScorer[...], answer: str, row: Mapping[str, Any], warn: Callable[[str], object]) -> Score:
    values = {column: row[column] for column in scorer.columns}
    for column, value in values.items():
        if value is None and column not in scorer.nullable:
            return Score(error=f"the case has no '{column}'")
    try:
        result = scorer.function(**{ANSWER: answer}, **values)
    except Exception as error:  # noqa: BLE001  (a failed case must not lose the others)
        warn(f"the scorer '{scorer.name}' raised {describe_error(error, scorer.function)}")
        return Score(error=f"raised {type(error).__name__} ({find_user_line(error, scorer.function)})")
    return _read_result(result)


def _read_result(result: object) -> Score:
    """Return the result of a scorer function as a score; an error unless it is a number from 0 to 1."""
    if isinstance(result, numbers.Real) or type(result).__name__ in ("bool_", "bool"):
        value = float(result)  # type: ignore[arg-type]  # a number, or a boolean of numpy
        return Score(value) if 0 <= value <= 1 else Score(error=f"returned {value:g}, not a number from 0 to 1")
    return Score(error=f"returned {type(result).__name__}, not a number from 0 to 1")
