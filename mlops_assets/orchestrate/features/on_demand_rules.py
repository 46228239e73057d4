"""Check on-demand features before data exists.

A service must be able to run their module, and a row alone must get the same features as among other rows.
"""

from __future__ import annotations

from typing import Any

from mlops_assets.compute.features.on_demand import find_foreign_imports
from mlops_assets.compute.features.parity import find_parity_violation, make_sample_rows, resolve_types
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.values.feature_types import PLAIN
from mlops_assets.values.features import OnDemandFeatures, select_feature_views
from mlops_assets.values.training import TrainingSet


def check_on_demand(project: Project, training_set: TrainingSet[..., Any], function: OnDemandFeatures[..., Any]) -> None:
    """Check the module of a training set's on-demand features, and run their function on sample rows.

    The function is not run when a parameter's type is unknown. A failure on all sample rows together is ignored: made-up values may not
    suit the function.

    Raises
    ------
    DefinitionError
        The function's module imports packages that a service may lack, or a row's features depend on the other rows.
    """
    if foreign := find_foreign_imports(function.module_source):
        raise DefinitionError(
            f"on-demand features '{function.name}' of '{training_set.key}' are defined in a module that imports {min(foreign)}",
            hint="move the function into a module that imports only numpy, the standard library and mlops_assets: a service runs exactly that module",
        )
    types = resolve_types(function.parameters, _declared_types(project, training_set))
    if types and (violation := _find_parity_violation(function, types)):
        raise DefinitionError(
            f"on-demand features '{function.name}' of '{training_set.key}' are not the same in training and in serving: on sample rows {violation}",
            hint="compute each row from its own values alone: no mean, rank, shift or random number over the rows",
        )


def _declared_types(project: Project, training_set: TrainingSet[..., Any]) -> dict[str, type]:
    """Return name → declared type, of the columns of the training set's datasets and of its looked-up features."""
    types: dict[str, type] = {}
    for parameter in training_set.function.tables:
        dataset = project.dataset(parameter.name)
        types |= dataset.table.schema_types if dataset is not None else {}
    return types | {
        name: kind
        for view in select_feature_views(training_set.features)
        for name, (_, kind) in zip(view.renamed_features, view.features, strict=True)
        if kind in PLAIN
    }


def _find_parity_violation(function: OnDemandFeatures[..., Any], types: dict[str, type]) -> str:
    try:
        return find_parity_violation(function.function, make_sample_rows(types))
    except Exception:  # noqa: BLE001  (the function may not expect made-up values; the training set checks real ones)
        return ""
