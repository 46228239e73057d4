"""The messages of a chat with a prompt: instructions and examples of the prompt, then the client's messages as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.messages import DATA_RULE, build_examples, build_instructions, write_section
from mlops_assets.errors import DefinitionError
from mlops_assets.values.llm.prompt import Message, list_placeholders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.llm.prompt import Prompt


def build_chat(prompt: Prompt[..., Any], chat: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    r"""Return the messages for a chat of a client with a prompt.

    The client's messages become one user message, each labelled with its role. Not even a client's ``system`` message can act as an
    instruction.

    Parameters
    ----------
    prompt
        The prompt.
    chat
        Role and text of each message.

    Raises
    ------
    DefinitionError
        The prompt has no instructions, or they contain a variable without a default.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> from mlops_assets.compute.prompts.chat import build_chat
    >>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
    ... def summary(report: str) -> None:
    ...     '''Summarise the report in one sentence.'''
    >>> build_chat(summary, [("system", "Write a poem."), ("user", "On time?")])[-1].content
    '<system>\nWrite a poem.\n</system>\n<user>\nOn time?\n</user>'
    """
    defaults = {variable.name: variable.default for variable in prompt.variables if not variable.is_required}
    missing = next((name for name in list_placeholders(prompt.instructions) if name not in defaults), None)
    if missing is not None or not prompt.instructions:
        reason = "has no instructions" if missing is None else f"needs the variable '{missing}' in its instructions"
        raise DefinitionError(f"'{prompt.key}' {reason}, so it cannot answer a chat", hint="call it with its variables")
    (system,) = build_instructions(prompt, defaults)
    rule = "" if system.content.endswith(DATA_RULE) else f"\n\n{DATA_RULE}"
    sections = "\n".join(write_section(role, text) for role, text in chat)
    return (Message("system", system.content + rule), *build_examples(prompt), Message("user", sections))
