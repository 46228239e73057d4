"""The version of a prompt: equal prompts have equal versions, wherever and whenever they are declared."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.messages import DATA_RULE
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.values.arguments import check_arguments

if TYPE_CHECKING:
    from mlops_assets.values.llm.prompt import Prompt


@check_arguments
def hash_prompt(prompt: Prompt[..., Any]) -> str:
    """Return the sha256 of everything that decides the answers of a prompt.

    It covers the instructions, the function's code with all project code that it uses, the variables with types and defaults, the
    examples, the response's JSON schema, and the definition of the model. The prompt's name, comments and timeouts are not part of it.

    Parameters
    ----------
    prompt
        The prompt.

    Returns
    -------
    str
        64 hexadecimal digits.

    See Also
    --------
    prompt : Declares a prompt.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
    ... def summary(report: str) -> None:
    ...     '''Summarise the report in one sentence.'''
    >>> len(ml.llm.hash_prompt(summary))
    64
    """
    facts = {
        "instructions": prompt.instructions,
        "data": source_hash(prompt.function) if prompt.has_body else DATA_RULE,
        "variables": [
            [variable.name, describe_type(variable.annotation), *([] if variable.is_required else [variable.default])]
            for variable in prompt.variables
        ],
        "examples": [[example.answer, dict(example.variables)] for example in prompt.examples],
        "response": describe_type(prompt.response),
        "model": prompt.model.definition,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def describe_type(annotation: Any) -> Any:  # noqa: ANN401  (any annotation, JSON)
    """Return the JSON schema of a type; None for None.

    Parameters
    ----------
    annotation
        The type of a variable or of a response.
    """
    import pydantic

    return None if annotation is None else pydantic.TypeAdapter(annotation).json_schema()
