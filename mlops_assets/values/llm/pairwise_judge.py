"""Pairwise judges: language models that say which of two answers is better, in both orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.judge import check_repeats, check_rubric
from mlops_assets.values.names import validate_name

if TYPE_CHECKING:
    from mlops_assets.values.llm.prompt import Prompt

FIRST, SECOND, TIE = "first", "second", "tie"  # verdicts of a reply; the first two also name the variables with the answers
CANDIDATE, PRODUCTION, INCONSISTENT = "candidate", "production", "inconsistent"
WIN_POINTS = {CANDIDATE: 1.0, PRODUCTION: 0.0, TIE: 0.5, INCONSISTENT: 0.5}  # of the prompt that is evaluated


@check_constructor
@dataclass(frozen=True, init=False)
class PairwiseJudge:
    """A scorer that asks a language model which answer is better: that of the evaluated prompt, or that of the version in production.

    The model sees both answers to a case, as ``first`` and ``second``, and replies with the line ``verdict: first``, ``verdict: second`` or
    ``verdict: tie``. The model compares each pair in both orders. An answer that is better in both wins; an answer that is worse in both
    loses. Two ties are a ``tie``, and any other two replies are ``inconsistent``. A call that fails, a timeout and a reply without exactly
    one verdict are the verdicts ``error``, ``timeout`` and ``unparsable``, which have no score. Equal answers are a tie without a call.

    The score of the evaluated prompt is 1 for a win, 0 for a loss, and 0.5 for a tie or an inconsistent verdict. The mean is the win rate
    against production. Cached answers of production are reused. Without a version in production there is no score.

    A gate on the win rate, such as ``ml.Gate("better", at_least=0.5)``, needs a :class:`Calibration` that passes. The first version of
    a prompt passes the gate. The gate fails when most verdicts are inconsistent, even with few cases.

    Parameters
    ----------
    name
        The column of the scores. Further columns are ``<name>_verdict``, ``<name>_repeats``, ``<name>_orders`` and ``<name>_flip_rate``.
    prompt
        The rubric: a prompt whose variables are ``first``, ``second`` and columns of the cases.
    repeats
        The number of calls in each order. The most frequent verdict counts, the earliest of equally frequent ones. A case with a
        failed call has no score.

    Raises
    ------
    DefinitionError
        The prompt lacks a text variable ``first`` or ``second``, or has a variable with a default, or the number of repeats is out of range.

    See Also
    --------
    Judge : Judges single answers.
    Calibration : Compares a judge with the preferences of people, and measures its position bias.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.prompt(model=ml.llm.LLM("large", base_url="http://127.0.0.1:8080/v1"))
    ... def compare_answers(first: str, second: str, question: str) -> None:
    ...     '''Which answer is better? Reply with one line: `verdict: first`, `verdict: second` or `verdict: tie`.'''
    >>> judge = ml.llm.PairwiseJudge("better", prompt=compare_answers)
    >>> judge.columns, judge.repeats
    (('question',), 3)
    """

    name: str
    prompt: Prompt[..., Any]
    repeats: int

    def __init__(self, name: str, *, prompt: Prompt[..., Any], repeats: int = 3) -> None:
        where = f"the judge '{validate_name(name, 'a judge')}'"
        check_repeats(where, repeats)
        check_rubric(where, prompt, (FIRST, SECOND))
        for attribute, value in {"name": name, "prompt": prompt, "repeats": repeats}.items():
            object.__setattr__(self, attribute, value)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The verdicts that the model may give."""
        return FIRST, SECOND, TIE

    @property
    def best_verdict(self) -> str:
        """The verdict that counts as positive in the true-positive rate of a calibration."""
        return FIRST

    @property
    def answers(self) -> tuple[str, ...]:
        """The variables of the prompt that receive answers."""
        return FIRST, SECOND

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read: the variables of the prompt without the answers."""
        return tuple(variable.name for variable in self.prompt.variables if variable.name not in self.answers)

    @property
    def verdict_columns(self) -> dict[str, str]:
        """Column of an evaluation's table → description, for the columns of this judge other than its score."""
        return {
            f"{self.name}_verdict": f"The verdict of the judge '{self.name}': candidate, production, tie, inconsistent, or a failure.",
            f"{self.name}_repeats": f"The verdict of each repeat of the judge '{self.name}'.",
            f"{self.name}_flip_rate": "The share of pairs of repeats that differ; null without repeats.",
            f"{self.name}_orders": "The reply to each call: for each repeat with the answer first, then with the answer second.",
        }
