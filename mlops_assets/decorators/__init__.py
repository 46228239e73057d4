"""The decorators: each reads the signature of a function once, and returns a frozen value that is still callable as the function."""

from mlops_assets.decorators.models import gate, model, training_set
from mlops_assets.decorators.tables import dataset, feature_view, on_demand_features

__all__ = ["dataset", "feature_view", "gate", "model", "on_demand_features", "training_set"]
