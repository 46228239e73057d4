"""Classes of the objects that decorators, training and gates use and return, for annotations and ``isinstance``.

The classes that most signatures need are in ``mlops_assets``: ``ml.Split``, ``ml.TimeWindow``, ``ml.Candidate`` and ``ml.GateResult``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mlops_assets.values.dataset import Dataset
from mlops_assets.values.evaluation import Costs, Evaluation, Intervals, PredictionTimes, SliceMetrics
from mlops_assets.values.feature_sources import DbtModel
from mlops_assets.values.features import ComputedFeatureView, OnDemandFeatures
from mlops_assets.values.gates.cost_gates import ArtifactSizeGate, LatencyGate
from mlops_assets.values.gates.gate import GateLike
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.search import SearchRange
from mlops_assets.values.training import TrainingSet

if TYPE_CHECKING:
    from mlops_assets.serving.predict.loaded_model import LoadedModel
    from mlops_assets.serving.push.push import PushResult
    from mlops_assets.stores.tracker.active_run import ActiveRun
    from mlops_assets.values.llm.answer import Answer
    from mlops_assets.values.llm.prompt import Message, Prompt
    from mlops_assets.values.llm.provider import Completion
    from mlops_assets.values.llm.scorers import FunctionScorer

__all__ = [
    "ActiveRun",
    "Answer",
    "ArtifactSizeGate",
    "Completion",
    "ComputedFeatureView",
    "Costs",
    "Dataset",
    "DbtModel",
    "Evaluation",
    "FunctionScorer",
    "GateFunction",
    "GateLike",
    "Intervals",
    "LatencyGate",
    "LoadedModel",
    "Message",
    "Model",
    "OnDemandFeatures",
    "PredictionTimes",
    "Prompt",
    "PushResult",
    "SearchRange",
    "SliceMetrics",
    "TrainingSet",
]

# Loaded on first use: their modules import a frame library and a database, or are for language models, which many projects lack.
_LAZY = {
    "ActiveRun": "mlops_assets.stores.tracker.active_run",
    "Answer": "mlops_assets.values.llm.answer",
    "Completion": "mlops_assets.values.llm.provider",
    "FunctionScorer": "mlops_assets.values.llm.scorers",
    "LoadedModel": "mlops_assets.serving.predict.loaded_model",
    "Message": "mlops_assets.values.llm.prompt",
    "Prompt": "mlops_assets.values.llm.prompt",
    "PushResult": "mlops_assets.serving.push.push",
}


def __getattr__(name: str) -> object:
    """Import a type at its first use."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """List the public names, including those that are imported at first use."""
    return sorted({*globals(), *__all__})
