"""The version of a prompt: equal prompts have equal versions, wherever and whenever they are declared."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from mlops_assets.compute.prompts.messages import DATA_RULE, bind_variables, convert_value
from mlops_assets.compute.prompts.schema_types import find_stored_schema
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.values.arguments import check_arguments

if TYPE_CHECKING:
    from mlops_assets.values.llm.judge import Judge
    from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
    from mlops_assets.values.llm.prompt import FewShotExample, Prompt, Variable


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
        "data": hash_body(prompt) if prompt.has_body else DATA_RULE,
        "variables": [
            [variable.name, build_json_schema(variable.annotation), *([] if variable.is_required else [dump_default(prompt, variable)])]
            for variable in prompt.variables
        ],
        "examples": [[example.answer, dump_example_values(prompt, example)] for example in prompt.examples],
        "response": build_json_schema(prompt.response),
        "model": prompt.model.definition,
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def hash_judge(judge: Judge | PairwiseJudge) -> str:
    """Return the version of a judge: the sha256 of its prompt's version, its verdicts (with scores, if declared) and its repeats.

    Parameters
    ----------
    judge
        The judge. Its name is not part of the version.
    """
    facts = [hash_prompt(judge.prompt), getattr(judge, "verdicts", judge.allowed), judge.repeats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def build_json_schema(annotation: Any) -> Any:  # noqa: ANN401  (any annotation, JSON)
    """Return the JSON schema of a type; None for None.

    Parameters
    ----------
    annotation
        The type of a variable or of a response.
    """
    if (stored := find_stored_schema(annotation)) is not None:
        return dict(stored)
    if annotation is None:
        return None
    # Equal unions may have different schemas, so only classes are cached.
    dump = _dump_schema if isinstance(annotation, type) and not get_args(annotation) else _dump_schema.__wrapped__
    return json.loads(dump(annotation))


@cache
def _dump_schema(annotation: Any) -> str:  # noqa: ANN401
    import pydantic

    return json.dumps(pydantic.TypeAdapter(annotation).json_schema())


def dump_default(prompt: Prompt[..., Any], variable: Variable) -> Any:  # noqa: ANN401  (JSON)
    """Return the default of a variable as JSON values.

    Parameters
    ----------
    prompt, variable
        The prompt, and a variable with a default.
    """
    return _dump(variable, convert_value(prompt, variable, variable.default))


def dump_example_values(prompt: Prompt[..., Any], example: FewShotExample) -> dict[str, Any]:
    """Return variable → value of an example, as JSON values.

    Parameters
    ----------
    prompt, example
        The prompt and the example.
    """
    bound = bind_variables(prompt, dict(example.variables))
    return {variable.name: _dump(variable, bound[variable.name]) for variable in prompt.variables}


def _dump(variable: Variable, value: Any) -> Any:  # noqa: ANN401  (JSON)
    return variable.adapter.dump_python(value, mode="json")


def hash_body(prompt: Prompt[..., Any]) -> str:
    """Return the hash of the code of a prompt's function, with all project code that it uses.

    Parameters
    ----------
    prompt
        A prompt whose function has a body.
    """
    return prompt.code_hash or source_hash(prompt.function)
