"""The answer to a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.values.arguments import check_constructor

if TYPE_CHECKING:
    from mlops_assets.values.llm.provider import Completion

ANSWER = "answer"  # the parameter of a scorer, and the variable of a judge's prompt, that receives the answer


@check_constructor
@dataclass(frozen=True)
class Answer:
    """The answer to a prompt, in its declared type, with the completion that it was read from.

    Parameters
    ----------
    value
        The answer in the type that the prompt declares; text when it declares none.
    completion
        The model's reply: its text, its tokens and its duration.

    See Also
    --------
    mlops_assets.llm.ask : Returns answers.
    """

    value: Any
    completion: Completion
