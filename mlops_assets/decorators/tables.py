"""Decorators of datasets, feature views and on-demand features."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.dataset import DAY_AHEAD, QUARANTINE, Dataset, Table
from mlops_assets.values.feature_sources import Computed
from mlops_assets.values.features import ComputedFeatureView, OnDemandFeatures
from mlops_assets.values.function import EVERYWHERE, CallPer, Injection, check_call_per, read_function
from mlops_assets.values.names import to_names, to_pairs
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    import dagster as dg

    from mlops_assets.values.features import Entity
    from mlops_assets.values.quality import Quality

P = ParamSpec("P")
R = TypeVar("R")

_DATASET = EVERYWHERE | {Injection.WINDOW, Injection.TABLE}


@overload
def dataset(function: Callable[P, R], /) -> Dataset[P, R]: ...


@overload
def dataset(
    *,
    schema: type | None = None,
    partitions: dg.PartitionsDefinition | None = None,
    key: str | Sequence[str] = (),
    event_timestamp: str | None = None,
    known_at: Mapping[str, str] | None = None,
    created_timestamp: str | None = None,
    allow_empty: bool = False,
    quality: Quality | None = None,
    quarantine: bool | float = False,
    keep: Literal["first", "last"] | None = None,
    order_by: str | None = None,
    max_future: timedelta | None = DAY_AHEAD,
    partition_mappings: Mapping[str, dg.PartitionMapping] | None = None,
    call_per: CallPer = "partition",
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], Dataset[P, R]]: ...


@check_arguments
def dataset(  # noqa: PLR0913  (a flat declaration reads best)
    function: Callable[P, R] | None = None,
    /,
    *,
    schema: type | None = None,
    partitions: dg.PartitionsDefinition | None = None,
    key: str | Sequence[str] = (),
    event_timestamp: str | None = None,
    known_at: Mapping[str, str] | None = None,
    created_timestamp: str | None = None,
    allow_empty: bool = False,
    quality: Quality | None = None,
    quarantine: bool | float = False,
    keep: Literal["first", "last"] | None = None,
    order_by: str | None = None,
    max_future: timedelta | None = DAY_AHEAD,
    partition_mappings: Mapping[str, dg.PartitionMapping] | None = None,
    call_per: CallPer = "partition",
    **options: Unpack[AssetArguments],
) -> Dataset[P, R] | Callable[[Callable[P, R]], Dataset[P, R]]:
    """Declare a table made by a function.

    The function may take a :class:`TimeWindow`, upstream tables by name, and Dagster's config, resources and context. It returns a frame
    with the rows of its window. Schema, key and times are verified before anything is committed.

    Parameters
    ----------
    function
        The function itself, where ``@ml.dataset`` stands without parentheses.
    schema
        A pandera ``DataFrameModel`` with polars types.
    partitions
        Time-window partitions, hourly to yearly.
    key
        Column or columns that identify a row.
    event_timestamp
        The column with the time a row is about, UTC. Needed with ``partitions``.
    known_at
        Column → time column: when the value of a column becomes known, where that is later than the row's own time.
    created_timestamp
        The column with the time a row became known; the event time when None.
    allow_empty
        Whether a partition may have no row; an empty one is refused otherwise.
    quality
        Limits on null shares, ranges, categories and row counts, declared or learned.
    quarantine
        Whether rows that break a rule on rows are set aside in ``quarantine/<name>`` instead of refusing the write: up to 5 % of a partition's
        rows when True, or up to the share that a number gives.
    keep
        Which row of a duplicated key is kept, ``"first"`` or ``"last"``; the others are dropped and counted. When None and without
        ``order_by``, a duplicated key refuses the write.
    order_by
        The column that orders the rows of a key, e.g. ``"updated_at"``; the last row is kept unless ``keep`` is ``"first"``. When None,
        rows have the order of the frame.
    max_future
        How far after now an event time may lie, one day by default; any time when None. In a table with partitions, the window of the
        partition is the bound instead.
    partition_mappings
        Upstream name → Dagster partition mapping, e.g. for a rolling window; the same partition by default.
    call_per
        ``"partition"``: the function is called once for each partition, also in a run over many. ``"range"``: a run over several
        consecutive partitions calls the function once, with one window over all of them, and it must return the rows of each. Such a run
        is refused when a partition would lose all its rows.
    **options
        Passed to Dagster: ``automation_condition``, ``op_tags``, ``pool``, ``owners``, ``tags``, ``retry_policy``, ``group``, ``freshness_policy``.

    Returns
    -------
    Dataset
        The declared table, still callable as the function.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, or the declarations contradict each other.

    See Also
    --------
    ExternalDataset : A table that another program writes.
    PushSource : A table whose rows are pushed.
    read_table : Read the rows.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="id")
    ... def numbers() -> pl.DataFrame:
    ...     return pl.DataFrame({"id": [1, 2]})
    >>> numbers.key, numbers().height
    ('dataset/numbers', 2)
    """
    share = QUARANTINE if quarantine is True else float(quarantine) or None
    table = Table(
        schema,
        partitions,
        to_names(key),
        event_timestamp,
        to_pairs(known_at),
        created_timestamp,
        allow_empty,
        quality,
        share,
        max_future,
        keep or ("last" if order_by else None),
        order_by,
    )

    def decorate(function: Callable[P, R]) -> Dataset[P, R]:
        user_function = read_function(function, kind="dataset", allowed=_DATASET, what="a dataset")
        table.check(f"dataset '{user_function.name}'")
        if user_function.parameters_for(Injection.WINDOW) and partitions is None:
            raise DefinitionError(
                f"dataset '{user_function.name}' takes a TimeWindow but has no partitions", hint="give partitions=, or drop the parameter"
            )
        check_call_per(call_per, f"dataset '{user_function.name}'", partitioned=partitions is not None)
        return Dataset(user_function, table, to_pairs(partition_mappings), AssetOptions.from_arguments(options), call_per)

    return decorate if function is None else decorate(function)


@check_arguments
def feature_view(  # noqa: PLR0913  (a flat declaration reads best)
    *,
    entity: Entity,
    event_timestamp: str,
    features: Mapping[str, Any],
    ttl: timedelta | None = None,
    created_timestamp: str | None = None,
    partitions: dg.PartitionsDefinition | None = None,
    partition_mappings: Mapping[str, dg.PartitionMapping] | None = None,
    online: bool = False,
    defaults: Mapping[str, Any] | None = None,
    quality: Quality | None = None,
    freshness: timedelta | str | None = None,
    call_per: CallPer = "partition",
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], ComputedFeatureView[P, R]]:
    """Declare a feature view that a function computes.

    The function may take the parameters that a :func:`dataset` may take. It returns a frame with the join keys, the times and the features.
    When the source code of the function changes, the history of the view is rebuilt.

    Parameters
    ----------
    entity, event_timestamp, features, ttl, created_timestamp, online, defaults, quality, freshness
        As in :class:`FeatureView`.
    partitions, partition_mappings, call_per
        As in :func:`dataset`.
    **options
        Passed to Dagster, as in :func:`dataset`.

    Returns
    -------
    ComputedFeatureView
        The declared view, still callable as the function.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, or the declarations contradict each other.

    See Also
    --------
    FeatureView : A view over a dataset, a query or a dbt model.
    on_demand_features : Features computed from the row itself.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.feature_view(entity=ml.Entity("carrier"), event_timestamp="day", created_timestamp="day_end", features={"flights": int})
    ... def carrier_size(flights: pl.DataFrame) -> pl.DataFrame:
    ...     return flights.group_by("carrier", "day", "day_end").agg(flights=pl.len())
    >>> carrier_size.key
    'features/carrier_size'
    """

    def decorate(function: Callable[P, R]) -> ComputedFeatureView[P, R]:
        user_function = read_function(function, kind="feature_view", allowed=_DATASET, what="a feature view")
        if user_function.parameters_for(Injection.WINDOW) and partitions is None:
            raise DefinitionError(
                f"feature view '{user_function.name}' takes a TimeWindow but has no partitions",
                hint="give partitions=, or drop the parameter",
            )
        check_call_per(call_per, f"feature view '{user_function.name}'", partitioned=partitions is not None)
        return ComputedFeatureView(
            source=Computed(user_function, partitions, to_pairs(partition_mappings), call_per),
            entity=entity,
            event_timestamp=event_timestamp,
            features=features,
            ttl=ttl,
            created_timestamp=created_timestamp,
            online=online,
            defaults=defaults,
            quality=quality,
            freshness=freshness,
            description=user_function.description,
            **options,
        )

    return decorate


@check_arguments
def on_demand_features(function: Callable[P, R]) -> OnDemandFeatures[P, R]:
    """Declare features computed from a row and the features looked up for it, the same in training and in serving.

    The function takes columns or features by name, as numpy arrays (times as ``datetime64[us]``, UTC), and returns
    a dict of feature name → array of the same length. Its module may import only numpy, the standard library and ``mlops_assets``:
    every version stores the source of that module, and a service runs exactly the stored source.

    Parameters
    ----------
    function
        The function; the names of its parameters are the columns or features that it reads.

    Returns
    -------
    OnDemandFeatures
        The declared features, still callable as the function.

    Raises
    ------
    DefinitionError
        The function takes ``*args`` or ``**kwargs``.

    See Also
    --------
    FeatureView : Features looked up by entity and time.
    training_set : Takes ``features=``.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import numpy as np
    >>> @ml.on_demand_features
    ... def clock(scheduled_at: np.ndarray) -> dict[str, np.ndarray]:
    ...     return {"hour": scheduled_at.astype("datetime64[h]").astype(int) % 24}
    >>> clock(np.array(["2013-01-01T05:15"], dtype="datetime64[us]"))["hour"].tolist()
    [5]
    """
    parameters = inspect.signature(function).parameters
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(
                f"@ml.on_demand_features '{function.__name__}' takes *{name}", hint="name every column that the function reads"
            )
    return OnDemandFeatures(function, tuple(parameters))
