"""Hash the gates of a prompt: evidence is valid only for the same definition of a gate and the same contents of its tables."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlops_assets.orchestrate.core.evaluation_hash import hash_scorers, list_latency_settings
from mlops_assets.orchestrate.core.graph import compute_fingerprints
from mlops_assets.values.llm.prompt_evaluation import COMPLETE, PromptEvaluation

if TYPE_CHECKING:
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.lake.protocol import Lake
    from mlops_assets.values.llm.prompt import Prompt


def list_evaluations(project: Project, prompt: Prompt[..., Any]) -> list[PromptEvaluation]:
    """Return the evaluations of a prompt.

    Parameters
    ----------
    project, prompt
        The declarations, and the prompt.
    """
    return [evaluation for evaluation in project.select(PromptEvaluation) if evaluation.prompt.key == prompt.key]


def hash_prompt_gates(project: Project, prompt: Prompt[..., Any], lake: Lake) -> dict[str, str]:
    """Return gate → hash, as :func:`hash_evaluation_gates` does, for the gates of all evaluations of a prompt.

    Parameters
    ----------
    project, prompt
        The declarations, and the prompt.
    lake
        The lake, as it is now.
    """
    hashes = (hash_evaluation_gates(project, evaluation, lake, None) for evaluation in list_evaluations(project, prompt))
    return {name: definition for found in hashes for name, definition in found.items()}


def hash_evaluation_gates(project: Project, evaluation: PromptEvaluation, lake: Lake, snapshot: int | None) -> dict[str, str]:
    """Return gate → hash of its definition and of what it reads: scorers, cases, prices, calibrations, and for durations the endpoints.

    The names begin with that of the evaluation.

    Parameters
    ----------
    project, evaluation
        The declarations, and the evaluation.
    lake, snapshot
        The lake, and the snapshot to look at; the newest when None.
    """
    inputs = _list_inputs(project, evaluation, lake, snapshot)
    facts = [evaluation.max_error_rate, hash_scorers(evaluation), inputs, *list_latency_settings(evaluation)]
    definitions = {COMPLETE: "complete", **{gate.name: gate.definition for gate in evaluation.gates}}
    return {
        f"{evaluation.name}.{name}": hashlib.sha256(json.dumps([definition, facts]).encode()).hexdigest()
        for name, definition in definitions.items()
    }


def _list_inputs(project: Project, evaluation: PromptEvaluation, lake: Lake, snapshot: int | None) -> list[Any]:
    """Return the content hashes of the tables that an evaluation reads, and the current fingerprints of its judges' calibrations."""
    tables = [edge.parent for edge in project.node(evaluation).edges]
    contents = [
        [table, sorted((key, record.content_hash) for key, record in lake.records(table, snapshot=snapshot).items())] for table in tables
    ]
    calibrations = [calibration for judge in evaluation.judges for calibration in project.calibrations_of(judge)]
    return contents + [compute_fingerprints(project.node(each), [""], lake, snapshot=snapshot) for each in calibrations]
