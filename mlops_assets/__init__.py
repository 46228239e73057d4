"""Run machine learning in production on Dagster.

Functions compute, values declare: a decorator on a function for what you compute, a frozen value for what you declare,
and :func:`build_definitions` compiles both to a plain ``dagster.Definitions``. Importing this package imports neither
Dagster nor a data-frame library; only :func:`build_definitions` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mlops_assets.decorators import dataset, feature_view, gate, model, on_demand_features, training_set
from mlops_assets.errors import (
    ArtifactError,
    DataError,
    DefinitionError,
    GateError,
    LakeError,
    MissingExtraError,
    MlopsError,
    PlatformError,
    RegistryError,
    ServiceError,
)
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.evaluation import Candidate, Evaluation, GateResult, Split
from mlops_assets.values.feature_sources import Sql
from mlops_assets.values.features import DbtProject, Entity, FeatureView, OnDemandFeatures
from mlops_assets.values.gate import Gate
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Drift, Monitor, Performance, Retrain
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource
from mlops_assets.values.quality import Quality
from mlops_assets.values.search import Range, Search
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import GroupSplit, TimeSplit, TrainingSet
from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from mlops_assets.orchestrate.compiler.build import build_definitions
    from mlops_assets.serving.push.push import push
    from mlops_assets.stores.platform.offline import training_frame
    from mlops_assets.stores.platform.run_log import log_artifact, log_figure, log_metric, log_params, search_runs, start_run

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BatchPrediction",
    "Candidate",
    "DataError",
    "Dataset",
    "DbtProject",
    "DefinitionError",
    "Drift",
    "Entity",
    "Evaluation",
    "ExternalDataset",
    "FeatureView",
    "Gate",
    "GateError",
    "GateResult",
    "GroupSplit",
    "LakeError",
    "MissingExtraError",
    "MlopsError",
    "Model",
    "Monitor",
    "OnDemandFeatures",
    "Performance",
    "Platform",
    "PlatformError",
    "PushSource",
    "Quality",
    "Range",
    "RegistryError",
    "Retrain",
    "Search",
    "Service",
    "ServiceError",
    "Split",
    "Sql",
    "TimeSplit",
    "TimeWindow",
    "TrainingSet",
    "build_definitions",
    "dataset",
    "feature_view",
    "gate",
    "log_artifact",
    "log_figure",
    "log_metric",
    "log_params",
    "model",
    "on_demand_features",
    "push",
    "search_runs",
    "start_run",
    "training_frame",
    "training_set",
]

# Loaded on first use: compiling needs Dagster, retrieval a frame library and logging a database, declaring none of them.
_LAZY = {
    "build_definitions": "mlops_assets.orchestrate.compiler.build",
    "push": "mlops_assets.serving.push.push",
    "training_frame": "mlops_assets.stores.platform.offline",
    **dict.fromkeys(
        ("log_artifact", "log_figure", "log_metric", "log_params", "search_runs", "start_run"), "mlops_assets.stores.platform.run_log"
    ),
}


def __getattr__(name: str) -> object:
    """Import what needs Dagster when it is first asked for."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)  # looked up once: a metric is logged at every step
    return found


def __dir__() -> list[str]:
    """List the public names, lazy ones included."""
    return sorted({*globals(), *__all__})
