"""The code that the rows of a computed feature view depend on; it determines the version of the view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.values.feature_sources import Computed

if TYPE_CHECKING:
    from mlops_assets.values.features import FeatureView


def build_view_source(view: FeatureView) -> str:
    """Return the source of a computed view's function, and a hash of the project code and values it uses; empty for other views."""
    if not isinstance(view.source, Computed):
        return ""
    return f"{view.source.text}\n{source_hash(view.source.function.function)}"
