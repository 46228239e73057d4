"""Decorators of LLM operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.llm.prompt import FewShotExample, Prompt, read_prompt
from mlops_assets.values.llm.provider import LLM
from mlops_assets.values.llm.scorers import FunctionScorer, read_scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = ParamSpec("P")
R = TypeVar("R")


@check_arguments
def prompt(
    *,
    model: LLM,
    response: Any = None,  # noqa: ANN401  (any type that JSON can hold)
    examples: Sequence[FewShotExample] = (),
    approval: bool = False,
) -> Callable[[Callable[P, R]], Prompt[P, R]]:
    """Declare a prompt: instructions, typed variables, and the model that answers.

    The docstring of the function is the instructions. Its parameters are the variables: they are sent after the instructions, as data, each in
    a section that its value cannot close. A function with a body returns the text or the messages to send instead of these sections.

    Numbers, booleans, ``Literal`` and ``Enum`` may also stand in the instructions, as ``{name}``. Text may not: it could contain instructions.

    Parameters
    ----------
    model
        The model that answers.
    response
        The type of the answer: a pydantic model, a dataclass, or any other type with a JSON schema. None for text.
    examples
        Calls with the answers that the model should give; they are sent with each call.
    approval
        Whether a person must approve a version before it is promoted.

    Returns
    -------
    Prompt
        The declared prompt, still callable as the function.

    Raises
    ------
    DefinitionError
        A variable has no type, or an example lacks a variable or has an unknown one. The instructions contain a placeholder that is not a
        variable, or whose values may contain instructions; or the function has neither instructions nor a body.

    See Also
    --------
    build_messages : Return the messages of a call.
    hash_prompt : Return the version of a prompt.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> smol = ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1")
    >>> @ml.llm.prompt(model=smol)
    ... def delay_answer(question: str, facts: list[str], sentences: int = 1) -> None:
    ...     '''Answer the question from the facts alone, in {sentences} sentence(s). If they do not answer it, write "unknown".'''
    >>> for message in ml.llm.build_messages(delay_answer, {"question": "Is EWR late?", "facts": ["EWR: 15 min"]}):
    ...     print(message.role, "|", message.content.splitlines()[0])
    system | Answer the question from the facts alone, in 1 sentence(s). If they do not answer it, write "unknown".
    user | <question>
    """

    def declare(function: Callable[P, R]) -> Prompt[P, R]:
        return read_prompt(function, model, response, tuple(examples), approval=approval)

    return declare


@check_arguments
def scorer(function: Callable[P, float]) -> FunctionScorer[P]:
    """Declare a function that scores an answer with a number from 0 to 1.

    Its parameters are ``answer`` and columns of the cases. A column that is null is an error of its case, unless the parameter's type
    allows None. So is a result that is not a number from 0 to 1, and an exception.

    Parameters
    ----------
    function
        The function.

    Returns
    -------
    FunctionScorer
        The declared scorer, still callable as the function.

    Raises
    ------
    DefinitionError
        The function has no parameter ``answer``, or takes ``*args``.

    See Also
    --------
    PromptEvaluation : Takes scorers.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.scorer
    ... def names_airport(answer: str, airport: str) -> float:
    ...     return float(airport in answer)
    >>> names_airport.columns, names_airport(answer="JFK is late", airport="JFK")
    (('airport',), 1.0)
    """
    return read_scorer(function)
