"""The hash of the definition of an evaluation or a calibration: when it changes, the table is made again."""

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
    """Return a hash of what decides the rows and checks of an evaluation apart from its cases.

    Parameters
    ----------
    evaluation
        The evaluation.
    """
    gates = [gate.definition for gate in evaluation.gates]
    prices = [evaluation.prices.key] if evaluation.prices else []
    facts = [hash_prompt(evaluation.prompt), describe_scorers(evaluation), evaluation.slices, evaluation.max_error_rate, *gates, *prices]
    return hashlib.sha256(json.dumps(facts + describe_latency(evaluation)).encode()).hexdigest()


def describe_latency(evaluation: PromptEvaluation) -> list[Any]:
    """Return what decides the durations of answers: the endpoints, and whether they stream; empty when no gate reads durations.

    Parameters
    ----------
    evaluation
        The evaluation.
    """
    model = evaluation.prompt.model
    endpoints = [each.endpoint for each in (model, *model.fallbacks)]
    return [endpoints, evaluation.stream] if evaluation.limits_latency else []


def describe_scorers(evaluation: PromptEvaluation) -> list[list[str]]:
    """Return the name of each scorer, with the hash of its function or its judge, or its declaration.

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
    """Return a hash of what decides the rows and checks of a calibration apart from its cases.

    Parameters
    ----------
    calibration
        The calibration.
    """
    facts = [hash_judge(calibration.judge), calibration.label, *calibration.answers, calibration.min_kappa, calibration.positive]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
