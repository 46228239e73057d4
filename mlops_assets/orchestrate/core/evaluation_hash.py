"""The hash of the definition of an evaluation or a calibration: when it changes, the table is rebuilt."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import hash_judge, hash_prompt
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.values.llm.judge import Judge
from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
from mlops_assets.values.llm.scorers import FunctionScorer

if TYPE_CHECKING:
    from mlops_assets.values.llm.calibration import Calibration
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
    from mlops_assets.values.llm.scorers import Scorer


def hash_evaluation(evaluation: PromptEvaluation) -> str:
    """Return a hash of everything but the cases that decides the rows and checks of an evaluation.

    Parameters
    ----------
    evaluation
        The evaluation.
    """
    gates = [gate.definition for gate in evaluation.gates]
    prices = [evaluation.prices.key] if evaluation.prices else []
    facts = [hash_prompt(evaluation.prompt), hash_scorers(evaluation), evaluation.slices, evaluation.max_error_rate, *gates, *prices]
    return hashlib.sha256(json.dumps(facts + list_latency_settings(evaluation)).encode()).hexdigest()


def list_latency_settings(evaluation: PromptEvaluation) -> list[Any]:
    """Return the settings that decide how long answers take: endpoints and streaming; empty when no gate reads durations.

    Parameters
    ----------
    evaluation
        The evaluation.
    """
    model = evaluation.prompt.model
    endpoints = [each.endpoint for each in (model, *model.fallbacks)]
    return [endpoints, evaluation.stream] if evaluation.limits_latency else []


def hash_scorers(evaluation: PromptEvaluation) -> list[list[str]]:
    """Return (name, hash) of each scorer: the hash of its function or judge; the declaration of a built-in scorer stands for its hash.

    Parameters
    ----------
    evaluation
        The evaluation.
    """
    return [[scorer.name, _hash_scorer(scorer)] for scorer in evaluation.scorers]


def _hash_scorer(scorer: Scorer) -> str:
    if isinstance(scorer, Judge | PairwiseJudge):
        return hash_judge(scorer)
    return source_hash(scorer.function) if isinstance(scorer, FunctionScorer) else repr(scorer)


def hash_calibration(calibration: Calibration) -> str:
    """Return a hash of everything but the cases that decides the rows and checks of a calibration.

    Parameters
    ----------
    calibration
        The calibration.
    """
    facts = [hash_judge(calibration.judge), calibration.label, *calibration.answers, calibration.min_kappa, calibration.positive]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
