"""Judges: language models that give an answer one verdict of a fixed list, by a rubric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.answer import ANSWER
from mlops_assets.values.names import validate_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.llm.prompt import Prompt

UNPARSABLE = "unparsable"  # a reply without exactly one verdict
ERROR = "error"  # no reply
TIMEOUT = "timeout"  # no reply in time
FAILURES = (UNPARSABLE, ERROR, TIMEOUT)
MAX_REPEATS = 25


def check_verdicts(allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the declared verdicts of a judge after checking that no reply can match two of them.

    Parameters
    ----------
    allowed : Sequence[str]
        The verdicts that a judge may give.

    Returns
    -------
    tuple of str
        The same verdicts.

    Raises
    ------
    DefinitionError
        There are fewer than two verdicts, two differ only in case or outer space, one is empty or has several lines, or one is the name
        of a failure.

    Examples
    --------
    >>> from mlops_assets.values.llm.judge import check_verdicts
    >>> check_verdicts(["supported", "unsupported"])
    ('supported', 'unsupported')
    """
    verdicts = () if isinstance(allowed, str) else tuple(allowed)
    folded = [fold_verdict(verdict) for verdict in verdicts]
    if len(verdicts) < 2:
        raise DefinitionError(f"a judge has the verdicts {allowed!r}", hint='list two or more, such as ("supported", "unsupported")')
    for verdict, text in zip(verdicts, folded, strict=True):
        if not text or "\n" in text:
            raise DefinitionError(f"a judge has the verdict {verdict!r}", hint="give each verdict a name of one line")
        if text in FAILURES:
            raise DefinitionError(f"a judge has the verdict {verdict!r}, the name of a failure", hint=f"use another name than {FAILURES}")
        if folded.count(text) > 1:
            raise DefinitionError(f"a judge has the verdict {verdict!r} twice", hint="verdicts must differ in more than case and space")
    return verdicts


def fold_verdict(text: str) -> str:
    """Return the form of a verdict that is compared: without outer space, in lower case."""
    return text.strip().casefold()


@check_constructor
@dataclass(frozen=True, init=False)
class Judge:
    """A scorer that asks a language model for a verdict on each answer.

    The model replies with the line ``verdict: …``, or with a JSON object that has the field ``verdict``. A call that fails, a timeout and a
    reply without exactly one verdict are verdicts of their own: ``error``, ``timeout`` and ``unparsable``. They have no score.

    Any judge can report scores. A gate may use them only if a :class:`Calibration` of the judge passes.

    Parameters
    ----------
    name
        The column of the scores. Further columns are ``<name>_verdict``, ``<name>_repeats`` and ``<name>_flip_rate``.
    prompt
        The rubric: a prompt whose variables are ``answer`` and columns of the cases.
    verdicts
        Verdict → score from 0 to 1.
    repeats
        The number of calls for each answer. The most frequent verdict counts, the earliest of equally frequent ones. A case with a
        failed repeat has no score.

    Raises
    ------
    DefinitionError
        The prompt has no text variable ``answer``, or a variable with a default; two verdicts can be confused, or a score or the number of
        repeats is out of range.

    See Also
    --------
    PromptEvaluation : Takes judges as scorers.
    Calibration : Compares a judge with human labels.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.prompt(model=ml.llm.LLM("large", base_url="http://127.0.0.1:8080/v1"))
    ... def check_support(answer: str, context: str) -> None:
    ...     '''Does the context support the answer? Reply with one line: `verdict: supported` or `verdict: unsupported`.'''
    >>> judge = ml.llm.Judge("support", prompt=check_support, verdicts={"supported": 1.0, "unsupported": 0.0})
    >>> judge.columns, judge.repeats
    (('context',), 3)
    """

    name: str
    prompt: Prompt[..., Any]
    verdicts: tuple[tuple[str, float], ...]
    repeats: int

    def __init__(self, name: str, *, prompt: Prompt[..., Any], verdicts: Mapping[str, float], repeats: int = 3) -> None:
        where = f"the judge '{validate_name(name, 'a judge')}'"
        check_verdicts(tuple(verdicts))
        for verdict, score in verdicts.items():
            if not 0 <= score <= 1:
                raise DefinitionError(f"{where} gives the verdict '{verdict}' the score {score}", hint="give a score from 0 to 1")
        check_repeats(where, repeats)
        check_rubric(where, prompt, (ANSWER,))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "verdicts", tuple((verdict, float(score)) for verdict, score in verdicts.items()))
        object.__setattr__(self, "repeats", repeats)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The verdicts that the model may give."""
        return tuple(verdict for verdict, _ in self.verdicts)

    @property
    def best_verdict(self) -> str:
        """The verdict with the highest score; the first of several."""
        return max(self.verdicts, key=lambda pair: pair[1])[0]

    @property
    def answers(self) -> tuple[str, ...]:
        """The variable of the prompt that receives the answer."""
        return (ANSWER,)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cases that are read: the variables of the prompt without ``answer``."""
        return tuple(variable.name for variable in self.prompt.variables if variable.name != ANSWER)

    @property
    def verdict_columns(self) -> dict[str, str]:
        """Column of an evaluation's table → description, for the columns of this judge other than its score."""
        return {
            f"{self.name}_verdict": f"The verdict of the judge '{self.name}', or unparsable, error or timeout.",
            f"{self.name}_repeats": f"The verdict of each repeat of the judge '{self.name}'.",
            f"{self.name}_flip_rate": "The share of pairs of repeats that differ; null without repeats.",
        }


def check_repeats(where: str, repeats: int) -> None:
    """Refuse a number of repeats out of range.

    Parameters
    ----------
    where, repeats
        A description of the judge for the error message, and the number.

    Raises
    ------
    DefinitionError
        The number is out of range.
    """
    if not 1 <= repeats <= MAX_REPEATS:
        raise DefinitionError(f"{where}: repeats={repeats} is invalid", hint=f"give 1 to {MAX_REPEATS}")


def check_rubric(where: str, prompt: Prompt[..., Any], answers: tuple[str, ...]) -> None:
    """Refuse a rubric that lacks a text variable for an answer, or has a variable with a default.

    Parameters
    ----------
    where, prompt
        A description of the judge for the error message, and its prompt.
    answers
        The variables that receive answers.

    Raises
    ------
    DefinitionError
        The prompt lacks such a variable, or a variable has a default.
    """
    variables, signature = {variable.name: variable for variable in prompt.variables}, ", ".join(f"{name}: str" for name in answers)
    for name in answers:
        answer = variables.get(name)
        if answer is None or answer.annotation is not str:
            problem = f"no variable '{name}'" if answer is None else f"a variable '{name}' that is not text"
            raise DefinitionError(f"{where} has a prompt '{prompt.key}' with {problem}", hint=f"write `def {prompt.name}({signature}, …)`")
    for variable in variables.values():
        if not variable.is_required:
            raise DefinitionError(
                f"{where} has a prompt '{prompt.key}' whose variable '{variable.name}' has a default",
                hint="remove the default: each variable of a rubric is a column of the cases",
            )
