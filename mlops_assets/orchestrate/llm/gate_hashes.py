"""The hashes of the gates of a prompt: evidence counts only for a gate as it was declared when it was judged."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlops_assets.orchestrate.core.evaluation_hash import describe_scorers
from mlops_assets.values.llm.prompt_evaluation import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation


def hash_prompt_gates(evaluations: Iterable[PromptEvaluation], prompt: Prompt[..., Any]) -> dict[str, str]:
    """Return gate → hash of its definition, for the gates of all evaluations of a prompt.

    Parameters
    ----------
    evaluations
        The evaluations of the project.
    prompt
        The prompt.
    """
    mine = [evaluation for evaluation in evaluations if evaluation.prompt.key == prompt.key]
    return {name: definition for evaluation in mine for name, definition in hash_evaluation_gates(evaluation).items()}


def hash_evaluation_gates(evaluation: PromptEvaluation) -> dict[str, str]:
    """Return gate → hash of its definition and of what it reads of the evaluation. The names begin with that of the evaluation.

    Parameters
    ----------
    evaluation
        The evaluation.
    """
    prices = evaluation.prices.key if evaluation.prices else ""
    facts = [evaluation.cases.key, evaluation.max_error_rate, describe_scorers(evaluation), prices]
    definitions = {COMPLETE: "complete", **{gate.name: gate.definition for gate in evaluation.gates}}
    return {
        f"{evaluation.name}.{name}": hashlib.sha256(json.dumps([definition, facts]).encode()).hexdigest()
        for name, definition in definitions.items()
    }
