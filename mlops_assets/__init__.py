"""Run machine learning in production on Dagster.

Decorate the functions that compute tables, features and models, and declare the rest as frozen values.
:func:`build_definitions` compiles both to a plain ``dagster.Definitions``. Importing this package imports neither
Dagster nor a data-frame library: the names that need one of them are imported at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mlops_assets import errors, types
from mlops_assets.decorators import dataset, feature_view, gate, model, on_demand_features, training_set
from mlops_assets.errors import DataError, DefinitionError, MlopsError, RegistryError
from mlops_assets.values.dataset import ExternalDataset
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.drift import Drift
from mlops_assets.values.evaluation import Candidate, GateResult, Split
from mlops_assets.values.feature_sources import DbtProject, Sql
from mlops_assets.values.features import Entity, FeatureView
from mlops_assets.values.gates.gate import Gate
from mlops_assets.values.monitoring import Monitor, Performance
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource
from mlops_assets.values.quality import Quality
from mlops_assets.values.search import Search
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import GroupSplit, TimeSplit
from mlops_assets.values.upkeep import Upkeep
from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from mlops_assets import llm, monitoring, runs
    from mlops_assets.orchestrate.compiler.build import build_definitions
    from mlops_assets.serving.predict.loaded_model import load_model
    from mlops_assets.serving.push.push import push
    from mlops_assets.stores.platform.offline import training_frame
    from mlops_assets.stores.platform.online import lookup
    from mlops_assets.stores.platform.run_log import start_run
    from mlops_assets.stores.platform.tables import read_table

__version__ = "0.1.0"

__all__ = [
    "BatchPrediction",
    "Candidate",
    "DataError",
    "DbtProject",
    "DefinitionError",
    "Drift",
    "Entity",
    "ExternalDataset",
    "FeatureView",
    "Gate",
    "GateResult",
    "GroupSplit",
    "MlopsError",
    "Monitor",
    "Performance",
    "Platform",
    "PushSource",
    "Quality",
    "RegistryError",
    "Retrain",
    "Search",
    "Service",
    "Split",
    "Sql",
    "TimeSplit",
    "TimeWindow",
    "Upkeep",
    "build_definitions",
    "dataset",
    "errors",
    "feature_view",
    "gate",
    "llm",
    "load_model",
    "lookup",
    "model",
    "monitoring",
    "on_demand_features",
    "push",
    "read_table",
    "runs",
    "start_run",
    "training_frame",
    "training_set",
    "types",
]

# Imported at first use: compiling needs Dagster, retrieval a data-frame library, and logging a database. Declaring needs none of these.
_LAZY = {
    "build_definitions": "mlops_assets.orchestrate.compiler.build",
    "llm": "mlops_assets.llm",
    "load_model": "mlops_assets.serving.predict.loaded_model",
    "lookup": "mlops_assets.stores.platform.online",
    "monitoring": "mlops_assets.monitoring",
    "push": "mlops_assets.serving.push.push",
    "read_table": "mlops_assets.stores.platform.tables",
    "runs": "mlops_assets.runs",
    "start_run": "mlops_assets.stores.platform.run_log",
    "training_frame": "mlops_assets.stores.platform.offline",
}


def __getattr__(name: str) -> object:
    """Import a public name from its heavy module at first use, and keep it as an attribute of the package."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module = importlib.import_module(_LAZY[name])
    value = globals()[name] = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names, including those that are imported at first use."""
    return sorted({*globals(), *__all__})
