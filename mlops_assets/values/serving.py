"""Where a model's predictions come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.values.names import checked_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from mlops_assets.values.dataset import Dataset, ExternalDataset
    from mlops_assets.values.model import Model


@dataclass(frozen=True, init=False)
class BatchPrediction:
    """The champion's predictions for every partition of a dataset.

    Parameters
    ----------
    name
        Names the asset ``predictions/<name>`` and the lake table.
    model
        Whose champion predicts.
    dataset
        The rows to predict: it has the model's columns, join keys and event timestamp; what is known later is not read.
    """

    name: str
    model: Model[..., Any]
    dataset: Dataset[..., Any] | ExternalDataset
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(self, name: str, *, model: Model[..., Any], dataset: Dataset[..., Any] | ExternalDataset, **options: object) -> None:
        object.__setattr__(self, "name", checked_name(name, "a batch prediction"))
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "options", AssetOptions.of(AssetArguments(**options)))  # type: ignore[typeddict-item]

    @property
    def key(self) -> str:
        """``predictions/<name>``."""
        return f"predictions/{self.name}"
