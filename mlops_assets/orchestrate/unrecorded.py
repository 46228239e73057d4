"""Warnings of what a result depends on and no record holds."""

from mlops_assets.compute.source_code import find_unrecorded
from mlops_assets.orchestrate.scope import Scope
from mlops_assets.values.feature_sources import Computed
from mlops_assets.values.features import FeatureView


def warn_of_unrecorded(scope: Scope, view: FeatureView) -> None:
    """Warn of everything that the rows of a view depend on and its version does not."""
    if not isinstance(view.source, Computed):
        return
    for name in find_unrecorded(view.source.function.function):
        scope.context.log.warning(f"'{view.key}' uses {name}, which its version does not cover: make its history again when that changes")
    for name in scope.outside.names():
        scope.context.log.warning(
            f"'{view.key}' reads {name} while it runs, which its version does not cover: read it at the top level of the module instead"
        )
