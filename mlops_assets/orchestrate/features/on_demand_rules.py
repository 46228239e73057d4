"""What on-demand features must obey before any data is there: a service can run their module, and computes for a row what training does."""

from __future__ import annotations

from typing import Any

from mlops_assets.compute.features.on_demand import find_foreign_imports
from mlops_assets.compute.features.parity import find_disparity, make_sample_rows, resolve_types
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.values.feature_types import PLAIN
from mlops_assets.values.features import OnDemandFeatures, feature_views
from mlops_assets.values.training import TrainingSet


def check_on_demand(project: Project, declared: TrainingSet[..., Any], function: OnDemandFeatures[..., Any]) -> None:
    """Check one function of one training set.

    Raises
    ------
    DefinitionError
        Its module imports what a service may lack, or it gives a row other values within a batch than alone.
    """
    if foreign := find_foreign_imports(function.module_source):
        raise DefinitionError(
            f"on-demand features '{function.name}' of '{declared.key}' live in a module that imports {min(foreign)}",
            hint="move the function into a module that imports numpy and the standard library only: a service runs exactly that module",
        )
    types = resolve_types(function.parameters, _declared_types(project, declared))
    if types and (found := _find_disparity(function, types)):
        raise DefinitionError(
            f"on-demand features '{function.name}' of '{declared.key}' are not the same in training and in serving: on made-up rows {found}",
            hint="compute each row from its own values alone: no mean, rank, shift or random number over the rows",
        )


def _declared_types(project: Project, declared: TrainingSet[..., Any]) -> dict[str, type]:
    """Return the types of columns and features, where they are declared."""
    known: dict[str, type] = {}
    for parameter in declared.function.tables:
        dataset = project.dataset(parameter.name)
        known |= dataset.table.schema_types if dataset is not None else {}
    return known | {
        name: kind
        for view in feature_views(declared.features)
        for name, (_, kind) in zip(view.renamed_features, view.features, strict=True)
        if kind in PLAIN
    }


def _find_disparity(function: OnDemandFeatures[..., Any], types: dict[str, type]) -> str:
    try:
        return find_disparity(function.function, make_sample_rows(types))
    except Exception:  # noqa: BLE001  (made-up values may be none that it expects; real ones are tried when the training set is made)
        return ""
