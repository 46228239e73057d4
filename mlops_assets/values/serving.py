"""Declarations of predictions: batch predictions and services."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.names import to_names, validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.dataset import Dataset, ExternalDataset
    from mlops_assets.values.model import Model


@check_constructor
@dataclass(frozen=True, init=False)
class BatchPrediction:
    """The champion's predictions for every partition of a dataset.

    A partition with rows that the champion was fitted on is predicted by the newest earlier champion that was not fitted on them. If there
    is none, the champion predicts it.

    Parameters
    ----------
    name
        Names the asset ``predictions/<name>_predictions`` and the lake table ``predictions/<name>``.
    model
        The model whose champion predicts.
    dataset
        The rows to predict. The dataset has the model's columns, join keys and event timestamp. Columns that the
        dataset lists in ``known_at=`` are not read: they are known later than the row.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    See Also
    --------
    Service : Predictions over HTTP.
    Monitor : Drift and performance of the predictions.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> from sklearn.linear_model import LogisticRegression
    >>> @ml.dataset(key="visit")
    ... def visits() -> pl.DataFrame:
    ...     return pl.DataFrame({"visit": [1, 2], "shop": ["a", "b"], "minutes": [3.0, 9.0], "buys": [0, 1]})
    >>> @ml.training_set(columns=["minutes"], label="buys", split=ml.GroupSplit("shop"))
    ... def examples(visits: pl.DataFrame) -> pl.DataFrame:
    ...     return visits
    >>> @ml.model(training_set=examples, metrics=["roc_auc"])
    ... def buyer(train: ml.Split) -> LogisticRegression:
    ...     return LogisticRegression().fit(train.X, train.y)
    >>> ml.BatchPrediction("tomorrow", model=buyer, dataset=visits).key
    'predictions/tomorrow'
    """

    name: str
    model: Model[..., Any]
    dataset: Dataset[..., Any] | ExternalDataset
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(self, name: str, *, model: Model[..., Any], dataset: Dataset[..., Any] | ExternalDataset, **options: object) -> None:
        object.__setattr__(self, "name", validate_name(name, "a batch prediction"))
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "options", AssetOptions.from_arguments(AssetArguments(**options)))  # type: ignore[typeddict-item]

    @property
    def key(self) -> str:
        """``predictions/<name>``: the table of the predictions."""
        return f"predictions/{self.name}"


@check_constructor
@dataclass(frozen=True, init=False)
class Service:
    """Serves a model's champion over HTTP: ``POST /predict``, on workers that load each new champion without a restart.

    Parameters
    ----------
    name
        Names the assets ``service/<name>`` and ``predictions/<name>_predictions``, the lake table ``predictions/<name>``, and the folder
        below the platform's home.
    model
        The model whose champion answers.
    key
        Columns that identify a row, so that its label can be joined later. All services and batch predictions of a model share one key: two
        services cannot declare different keys. If no service of the model declares a key, it is that of the first dataset of the training
        set with a key.
    host, port
        The address to listen on. Port 0 takes any free port; a restart takes the same port again while it is free.
    workers
        Number of worker processes.
    max_rows, max_bytes
        The maximum number of rows, and the maximum size, of one request.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        A limit is not positive, or the port number is invalid.

    See Also
    --------
    BatchPrediction : Predictions for every partition of a dataset.
    Monitor : Drift and performance of the predictions.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> from sklearn.linear_model import LogisticRegression
    >>> @ml.dataset(key="visit")
    ... def visits() -> pl.DataFrame:
    ...     return pl.DataFrame({"visit": [1, 2], "shop": ["a", "b"], "minutes": [3.0, 9.0], "buys": [0, 1]})
    >>> @ml.training_set(columns=["minutes"], label="buys", split=ml.GroupSplit("shop"))
    ... def examples(visits: pl.DataFrame) -> pl.DataFrame:
    ...     return visits
    >>> @ml.model(training_set=examples, metrics=["roc_auc"])
    ... def buyer(train: ml.Split) -> LogisticRegression:
    ...     return LogisticRegression().fit(train.X, train.y)
    >>> ml.Service("buyer_api", model=buyer).key
    'service/buyer_api'
    """

    name: str
    model: Model[..., Any]
    row_key: tuple[str, ...]
    host: str
    port: int
    workers: int
    max_rows: int
    max_bytes: int
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        model: Model[..., Any],
        key: str | Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int = 2,
        max_rows: int = 10_000,
        max_bytes: int = 8 * 2**20,
        **options: object,
    ) -> None:
        values = {
            "model": model,
            "row_key": to_names(key),
            "host": host,
            "port": port,
            "workers": workers,
            "max_rows": max_rows,
            "max_bytes": max_bytes,
        }
        object.__setattr__(self, "name", validate_name(name, "a service"))
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        object.__setattr__(self, "options", AssetOptions.from_arguments(AssetArguments(**options)))  # type: ignore[typeddict-item]
        if min(workers, max_rows, max_bytes) < 1 or not 0 <= port < 65_536:
            raise DefinitionError(
                f"service '{name}': workers={workers}, max_rows={max_rows}, max_bytes={max_bytes} or port={port} is invalid",
                hint="give positive limits, and a port from 0 to 65535",
            )

    @property
    def key(self) -> str:
        """``service/<name>``: the running service."""
        return f"service/{self.name}"

    @property
    def predictions_key(self) -> str:
        """``predictions/<name>``: the table of the logged predictions."""
        return f"predictions/{self.name}"
