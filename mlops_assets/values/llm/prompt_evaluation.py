"""The evaluation of a prompt: its cases, its scorers, and the maximum share of errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.scorers import SCORERS
from mlops_assets.values.names import validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.dataset import Dataset, ExternalDataset
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.scorers import Scorer

# The columns of an evaluation's table apart from the key, the slices and the scores.
EVALUATION_COLUMNS = {
    "answer": "The text of the model; null when no model answered.",
    "error": "Why the answer or a score is missing; null when nothing is.",
    "model": "The model that answered: that of the prompt, or one of its fallbacks.",
    "prompt_version": "The version of the prompt.",
    "cached": "Whether the answer comes from the response cache.",
    "input_tokens": "Tokens of the prompt, as the endpoint reports them.",
    "output_tokens": "Tokens of the answer, as the endpoint reports them.",
    "seconds": "Duration of the call.",
    "seconds_to_first_token": "Seconds until the first text of a stream.",
}


@check_constructor
@dataclass(frozen=True, init=False)
class PromptEvaluation:
    """The answers of a prompt to the cases of a dataset, with their scores.

    A call that fails, and a score that cannot be computed, is an error in the row of its case, and never a score of 0.

    Parameters
    ----------
    name
        Names the asset ``evaluation/<name>_evaluation`` and the lake table ``evaluation/<name>``.
    prompt
        The prompt to evaluate.
    cases
        The dataset of cases. It has a key, a column for each variable of the prompt, and the columns that the scorers read.
    scorers
        What scores each answer; each is a column of the table.
    slices
        Columns of the cases; scores are reported for each of their values.
    max_error_rate
        The maximum share of cases with an error; the check ``complete`` fails above it.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        The dataset has no key, there is no scorer, a scorer is a plain function, the table would have two columns of one name, or
        ``max_error_rate`` is not from 0 to 1.

    See Also
    --------
    prompt : Declares a prompt.
    scorer : Declares a scorer.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="case")
    ... def delay_questions() -> pl.DataFrame:
    ...     return pl.DataFrame({"case": ["jfk"], "question": ["Is JFK late?"], "context": ["JFK: 15 min"], "expected": ["yes"]})
    >>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
    ... def answer_question(question: str, context: str) -> None:
    ...     '''Answer the question from the context alone.'''
    >>> answers = ml.llm.PromptEvaluation(
    ...     "delay_answers",
    ...     prompt=answer_question,
    ...     cases=delay_questions,
    ...     scorers=[ml.llm.ExactMatch("expected"), ml.llm.Groundedness(context="context")],
    ... )
    >>> answers.key
    'evaluation/delay_answers'
    """

    name: str
    prompt: Prompt[..., Any]
    cases: Dataset[..., Any] | ExternalDataset
    scorers: tuple[Scorer, ...]
    slices: tuple[str, ...]
    max_error_rate: float
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        prompt: Prompt[..., Any],
        cases: Dataset[..., Any] | ExternalDataset,
        scorers: Sequence[Scorer],
        slices: Sequence[str] = (),
        max_error_rate: float = 0.0,
        **options: object,
    ) -> None:
        values = {
            "name": validate_name(name, "an evaluation"),
            "prompt": prompt,
            "cases": cases,
            "scorers": tuple(scorers),
            "slices": (slices,) if isinstance(slices, str) else tuple(slices),
            "max_error_rate": float(max_error_rate),
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    @property
    def key(self) -> str:
        """``evaluation/<name>``: the table of the answers and their scores."""
        return f"evaluation/{self.name}"

    @property
    def case_key(self) -> tuple[str, ...]:
        """The columns that identify a case."""
        return self.cases.table.key

    @property
    def read_columns(self) -> dict[str, str]:
        """Column of the cases that must be present → what needs it."""
        variables = {v.name: f"the variable '{v.name}' of '{self.prompt.key}'" for v in self.prompt.variables if v.is_required}
        scored = {column: f"the scorer '{scorer.name}'" for scorer in self.scorers for column in scorer.columns}
        return {**dict.fromkeys(self.slices, "slices="), **scored, **variables, **dict.fromkeys(self.case_key, "the key")}

    def _check(self) -> None:
        where = f"the evaluation '{self.name}'"
        if not self.case_key:
            raise DefinitionError(
                f"{where} has cases of '{self.cases.key}', which has no key", hint=f"set key= of '{self.cases.name}' to what names a case"
            )
        if not self.scorers:
            raise DefinitionError(f"{where} has no scorer", hint='give one, e.g. scorers=[ml.llm.ExactMatch("expected")]')
        for scorer in self.scorers:
            if not isinstance(scorer, SCORERS):
                raise DefinitionError(
                    f"{where} was given {getattr(scorer, '__name__', scorer)!r} as a scorer",
                    hint="write @ml.llm.scorer above a function; the others are values such as ml.llm.ExactMatch",
                )
            validate_name(scorer.name, "a scorer")
        if not 0 <= self.max_error_rate <= 1:
            raise DefinitionError(f"{where} has max_error_rate={self.max_error_rate}", hint="give a share from 0 to 1")
        self._check_table_columns(where)

    def _check_table_columns(self, where: str) -> None:
        """Refuse two columns of one name in the table of the evaluation."""
        carried = dict.fromkeys((*self.case_key, *self.slices))
        counts = Counter((*carried, *EVALUATION_COLUMNS, *(scorer.name for scorer in self.scorers)))
        name, count = counts.most_common(1)[0]
        if count > 1:
            raise DefinitionError(
                f"{where} has two columns named '{name}' in its table",
                hint="give the scorer another name=, or rename the column of the cases",
            )
