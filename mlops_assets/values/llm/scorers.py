"""Scorers: they compare an answer with columns of its case and return a number from 0 to 1."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.answer import ANSWER
from mlops_assets.values.llm.judge import Judge
from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
from mlops_assets.values.names import validate_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

P = ParamSpec("P")


@check_constructor
@dataclass(frozen=True)
class ExactMatch:
    """Scores 1 when the answer is the expected text, apart from space at the ends of both; otherwise 0.

    Parameters
    ----------
    expected
        The column with the expected text.
    name
        The column of the scores.

    See Also
    --------
    TokenF1 : Scores the words that answer and expected text share.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.ExactMatch("expected").columns
    ('expected',)
    """

    expected: str
    name: str = "exact_match"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read."""
        return (self.expected,)


@check_constructor
@dataclass(frozen=True)
class TokenF1:
    """Scores the F1 of the words that answer and expected text share, normalised as in SQuAD.

    Parameters
    ----------
    expected
        The column with the expected text.
    name
        The column of the scores.

    See Also
    --------
    EditSimilarity : Scores the edit distance.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.TokenF1("expected").name
    'token_f1'
    """

    expected: str
    name: str = "token_f1"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read."""
        return (self.expected,)


@check_constructor
@dataclass(frozen=True)
class EditSimilarity:
    """Scores 1 − Levenshtein distance ÷ length of the longer text.

    Parameters
    ----------
    expected
        The column with the expected text.
    name
        The column of the scores.

    See Also
    --------
    TokenF1 : Scores the words that answer and expected text share.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.EditSimilarity("expected").name
    'edit_similarity'
    """

    expected: str
    name: str = "edit_similarity"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read."""
        return (self.expected,)


@check_constructor
@dataclass(frozen=True)
class RegexMatch:
    r"""Scores 1 when a regular expression matches somewhere in the answer; otherwise 0.

    Parameters
    ----------
    pattern
        A regular expression of Python.
    name
        The column of the scores.

    Raises
    ------
    DefinitionError
        The pattern is not a regular expression.

    See Also
    --------
    ExactMatch : Compares with an expected text.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.RegexMatch(r"\b\d+ minutes\b", name="names_minutes").name
    'names_minutes'
    """

    pattern: str
    name: str = "regex_match"

    def __post_init__(self) -> None:
        """Refuse a pattern that Python cannot compile."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise DefinitionError(
                f"the pattern {self.pattern!r} is not a regular expression: {error}", hint="correct the pattern"
            ) from None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read: none."""
        return ()


@check_constructor
@dataclass(frozen=True, init=False)
class JsonSchemaMatch:
    """Scores 1 when the answer is JSON that fits a schema; otherwise 0.

    Parameters
    ----------
    schema
        A JSON Schema.
    name
        The column of the scores.

    Raises
    ------
    DefinitionError
        The schema is not JSON.

    See Also
    --------
    RegexMatch : Searches the answer for a pattern.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.JsonSchemaMatch({"type": "object", "required": ["minutes"]}).schema
    {'type': 'object', 'required': ['minutes']}
    """

    text: str
    name: str

    def __init__(self, schema: Mapping[str, Any], name: str = "json_schema_match") -> None:
        try:
            text = json.dumps(dict(schema), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DefinitionError(f"the schema of the scorer '{name}' is not JSON: {error}", hint="give a JSON Schema as a dict") from None
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "name", name)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema."""
        schema: dict[str, Any] = json.loads(self.text)
        return schema

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read: none."""
        return ()


@check_constructor
@dataclass(frozen=True)
class RetrievalHit:
    """Scores 1 when a relevant document is among those retrieved, otherwise 0: the mean is the hit rate.

    Parameters
    ----------
    retrieved
        The column with the list of identifiers of the retrieved documents, the best first.
    relevant
        The column with the list of identifiers of the documents that answer the question.
    top
        The number of retrieved documents to consider; all when None.
    name
        The column of the scores.

    Raises
    ------
    DefinitionError
        ``top`` is below 1.

    See Also
    --------
    Groundedness : Scores the support of the answer by its context.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.RetrievalHit("retrieved", "relevant", top=3).columns
    ('retrieved', 'relevant')
    """

    retrieved: str
    relevant: str
    top: int | None = None
    name: str = "retrieval_hit"

    def __post_init__(self) -> None:
        """Refuse a number of documents below 1."""
        if self.top is not None and self.top < 1:
            raise DefinitionError(
                f"the scorer '{self.name}' considers the top {self.top} documents", hint="give at least 1, or None for all"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read."""
        return self.retrieved, self.relevant


@check_constructor
@dataclass(frozen=True)
class Groundedness:
    """Scores how far every statement of the answer is supported by a context, without a language model.

    Parameters
    ----------
    context
        The column with the text that the answer has to follow from.
    embeddings
        Whether to use sentence vectors; None uses them where their packages are installed.
    name
        The column of the scores.

    See Also
    --------
    RetrievalHit : Scores the retrieval of the context.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.Groundedness(context="context").name
    'groundedness'
    """

    context: str
    embeddings: bool | None = None
    name: str = "groundedness"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read."""
        return (self.context,)


@check_constructor
@dataclass(frozen=True, eq=False)
class FunctionScorer(Generic[P]):
    """A function of the project that scores an answer.

    Made by :func:`mlops_assets.llm.scorer`; still callable as the function.

    See Also
    --------
    mlops_assets.llm.scorer : Returns it.
    """

    function: Callable[P, float]
    columns: tuple[str, ...]
    nullable: frozenset[str] = frozenset()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> float:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name: the column of the scores."""
        return self.function.__name__


# Scorers that call no language model, and all scorers.
PlainScorer = ExactMatch | TokenF1 | EditSimilarity | RegexMatch | JsonSchemaMatch | RetrievalHit | Groundedness | FunctionScorer[...]
Scorer = PlainScorer | Judge | PairwiseJudge
SCORERS = (
    ExactMatch,
    TokenF1,
    EditSimilarity,
    RegexMatch,
    JsonSchemaMatch,
    RetrievalHit,
    Groundedness,
    FunctionScorer,
    Judge,
    PairwiseJudge,
)


def read_scorer(function: Callable[P, float]) -> FunctionScorer[P]:
    """Read the signature of a scorer function.

    Parameters
    ----------
    function
        The function: its parameters are ``answer`` and columns of the cases.

    Raises
    ------
    DefinitionError
        The function has no parameter ``answer``, takes ``*args`` or ``**kwargs``, or has an annotation that cannot be resolved.
    """
    name = validate_name(function.__name__, "a scorer")
    where = f"@ml.llm.scorer '{name}'"
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DefinitionError(f"{where} takes '{parameter}'", hint="name answer and the columns as plain parameters")
    if ANSWER not in parameters:
        raise DefinitionError(f"{where} has no parameter '{ANSWER}'", hint=f"write `def {name}({ANSWER}: str, …) -> float:`")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise DefinitionError(
            f"{where}: an annotation cannot be resolved: {error}", hint="import the annotated types at run time, not under TYPE_CHECKING"
        ) from error
    columns = tuple(column for column in parameters if column != ANSWER)
    return FunctionScorer(function, columns, frozenset(column for column in columns if accepts_none(hints.get(column))))


def accepts_none(annotation: Any) -> bool:  # noqa: ANN401  (any annotation)
    """Return whether an annotation allows None.

    Parameters
    ----------
    annotation
        The resolved annotation; None when there is none.
    """
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return annotation is Any or (is_union and type(None) in typing.get_args(annotation))
