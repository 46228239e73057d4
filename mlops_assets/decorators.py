"""The decorators: each reads a signature once and returns a frozen value that is still the function."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from mlops_assets.errors import DefinitionError
from mlops_assets.values.dataset import DAY_AHEAD, QUARANTINE, Dataset, Table
from mlops_assets.values.feature_sources import Computed
from mlops_assets.values.features import ComputedFeatureView, OnDemandFeatures
from mlops_assets.values.function import Injection, UserFunction, read_function
from mlops_assets.values.model import Format, GateFunction, Model, check_format
from mlops_assets.values.names import checked_name, names, pairs
from mlops_assets.values.options import AssetArguments, AssetOptions
from mlops_assets.values.training import GroupSplit, TimeSplit, TrainingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    import dagster as dg

    from mlops_assets.values.features import Entity, Features
    from mlops_assets.values.gate import Gate
    from mlops_assets.values.quality import Quality
    from mlops_assets.values.search import Search

P = ParamSpec("P")
R = TypeVar("R")

_EVERYWHERE = frozenset({Injection.CONFIG, Injection.RESOURCE, Injection.CONTEXT})
_DATASET = _EVERYWHERE | {Injection.WINDOW, Injection.TABLE}
_TRAINING_SET = _EVERYWHERE | {Injection.TABLE}
_MODEL = _EVERYWHERE | {Injection.SPLIT}
_GATE = frozenset({Injection.CANDIDATE, Injection.RESOURCE})


def dataset(  # noqa: PLR0913  (a flat declaration reads best)
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
    max_future: timedelta | None = DAY_AHEAD,
    partition_mappings: Mapping[str, dg.PartitionMapping] | None = None,
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], Dataset[P, R]]:
    """Declare a table made by a function.

    The function receives a :class:`TimeWindow`, upstream tables by name, and Dagster's config, resources and context;
    it returns a frame with the rows of its window. Schema, key and times are verified before anything is committed.

    Parameters
    ----------
    schema
        A pandera ``DataFrameModel`` with polars types.
    partitions
        Time-window partitions, hourly to yearly. A run over several consecutive partitions calls the function once.
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
        Limits on nulls, ranges, categories and rows, declared or learnt.
    quarantine
        Whether rows that break a rule on rows are set aside in ``quarantine/<name>`` instead of refusing the write: up to 5 % of a partition's
        rows when True, or up to the share that is given.
    max_future
        How far after now an event time may lie; one day when left out, any time when None. Within partitions, their window decides.
    partition_mappings
        Upstream name → Dagster partition mapping, e.g. for a rolling window; the same partition when left out.
    **options
        Passed to Dagster: ``automation_condition``, ``op_tags``, ``pool``, ``owners``, ``tags``, ``retry_policy``, ``group``, ``freshness_policy``.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, or the declarations contradict each other.

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
        names(key),
        event_timestamp,
        pairs(known_at),
        created_timestamp,
        allow_empty,
        quality,
        share,
        max_future,
    )

    def decorate(function: Callable[P, R]) -> Dataset[P, R]:
        read = _named(read_function(function, kind="dataset", allowed=_DATASET), "a dataset")
        table.check(f"dataset '{read.name}'")
        if read.receiving(Injection.WINDOW) and partitions is None:
            raise DefinitionError(
                f"dataset '{read.name}' takes a TimeWindow but has no partitions", hint="give partitions=, or drop the parameter"
            )
        return Dataset(read, table, pairs(partition_mappings), AssetOptions.of(options))

    return decorate


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
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], ComputedFeatureView[P, R]]:
    """Declare a feature view that a function computes.

    The function receives what a :func:`dataset` may receive, and returns a frame with the join keys, the times and the features.
    When its text changes, its history is made anew.

    Parameters
    ----------
    entity, event_timestamp, features, ttl, created_timestamp, online, defaults
        As in :class:`FeatureView`.
    partitions, partition_mappings
        As in :func:`dataset`.
    **options
        Passed to Dagster, as in :func:`dataset`.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, or the declarations contradict each other.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.feature_view(entity=ml.Entity("carrier"), event_timestamp="day", features={"flights": int})
    ... def carrier_size(flights: pl.DataFrame) -> pl.DataFrame:
    ...     return flights.group_by("carrier", "day").agg(flights=pl.len())
    >>> carrier_size.key
    'features/carrier_size'
    """

    def decorate(function: Callable[P, R]) -> ComputedFeatureView[P, R]:
        read = _named(read_function(function, kind="feature_view", allowed=_DATASET), "a feature view")
        if read.receiving(Injection.WINDOW) and partitions is None:
            raise DefinitionError(
                f"feature view '{read.name}' takes a TimeWindow but has no partitions", hint="give partitions=, or drop the parameter"
            )
        return ComputedFeatureView(
            source=Computed(read, partitions, pairs(partition_mappings)),
            entity=entity,
            event_timestamp=event_timestamp,
            features=features,
            ttl=ttl,
            created_timestamp=created_timestamp,
            online=online,
            defaults=defaults,
            description=read.description,
            **options,
        )

    return decorate


def on_demand_features(function: Callable[P, R]) -> OnDemandFeatures[P, R]:
    """Declare features computed from the row itself, the same in training and in serving.

    The function takes columns or features by name, as numpy arrays (times as ``datetime64[us]``, UTC), and returns
    a dict of arrays of the same length. It lives in a module that imports numpy and the standard library only:
    every version stores that module, and a service runs exactly the stored one.

    Raises
    ------
    DefinitionError
        The function takes ``*args`` or ``**kwargs``.

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


def training_set(  # noqa: PLR0913  (a flat declaration reads best)
    *,
    label: str,
    split: TimeSplit | GroupSplit,
    features: Sequence[Features] = (),
    columns: Sequence[str] = (),
    event_timestamp: str | None = None,
    label_known_at: str | None = None,
    as_known: bool = True,
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], TrainingSet[P, R]]:
    """Declare the rows a model learns from.

    The function receives upstream tables by name and returns the spine: one row per example, with the label, the event
    time, the declared columns and the join keys of the features. Features are joined as they were known at each row's time.

    Parameters
    ----------
    label
        The column to predict.
    split
        How rows are divided into train, validation and holdout.
    features
        Feature views and on-demand features; with ``columns`` they make ``X``, in that order.
    columns
        Columns of the spine that are features themselves.
    event_timestamp
        The column with the time of the prediction; needed by feature views and by a time split.
    label_known_at
        The column with the time at which the label becomes known.
    as_known
        Whether only feature rows known at the event time count; late data then does not leak.
    **options
        Passed to Dagster, as in :func:`dataset`.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, or the declarations contradict each other.
    """

    def decorate(function: Callable[P, R]) -> TrainingSet[P, R]:
        read = _named(read_function(function, kind="training_set", allowed=_TRAINING_SET), "a training set")
        value = TrainingSet(
            read, tuple(features), names(columns), label, split, event_timestamp, label_known_at, as_known, AssetOptions.of(options)
        )
        if event_timestamp is None and (isinstance(split, TimeSplit) or any(not isinstance(f, OnDemandFeatures) for f in features)):
            raise DefinitionError(
                f"training set '{value.name}' declares no event_timestamp, but splits by time or looks features up",
                hint="name the column with the time of each row",
            )
        return value

    return decorate


def model(  # noqa: PLR0913  (a flat declaration reads best)
    *,
    training_set: TrainingSet[..., Any],
    metrics: Sequence[str],
    gates: Sequence[Gate] = (),
    slices: Sequence[str] = (),
    cron_schedule: str | None = None,
    cron_timezone: str = "UTC",
    trusted_types: Sequence[str] = (),
    format: Format = "skops",  # noqa: A002  (the field's word)
    approval: bool = False,
    search: Search | None = None,
    limits: Sequence[str] = (),
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], Model[P, R]]:
    """Declare a model trained by a function.

    The function receives ``train: ml.Split`` (and ``validation: ml.Split`` when it tunes), a ``dagster.Config`` subclass with its
    hyperparameters, and resources; it returns a fitted scikit-learn estimator. It never sees the holdout: gates read that.

    Parameters
    ----------
    training_set
        What it learns from.
    metrics
        scikit-learn scorer names, greater is better.
    gates
        What a candidate must pass before it can be registered.
    slices
        Columns of the training set by whose values the metrics are broken down.
    cron_schedule, cron_timezone
        When to refresh what is upstream and train again, and in which time zone that is.
    trusted_types
        Qualified names of types beyond scikit-learn's own that a stored model may contain.
    format
        ``skops``; ``native``, LightGBM's or XGBoost's file; ``onnx`` where it is proved; ``pickle`` where ``MLOPS_ALLOW_PICKLE=1``.
    approval
        Whether a person must approve a version before it can become champion.
    search
        Hyperparameters to search for before the training.
    limits
        What it must not be used for and where it is known to fail, in sentences for its model card.
    **options
        Passed to Dagster, as in :func:`dataset`.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, no metric is named, two gates have one name, or there is no such format.
    """

    def decorate(function: Callable[P, R]) -> Model[P, R]:
        read = _named(read_function(function, kind="model", allowed=_MODEL), "a model")
        _check_splits(read)
        _check_gates(read.name, metrics, gates)
        check_format(format)
        if search is not None:
            search.check(read.receiving(Injection.CONFIG), metrics, f"model '{read.name}'")
        judged, schedule = (names(metrics), tuple(gates), names(slices)), (cron_schedule, cron_timezone)
        stored, options_ = (names(trusted_types), format), AssetOptions.of(options)
        return Model(read, training_set, *judged, *schedule, *stored, approval, search, names(limits), options_)

    return decorate


def gate(model: Model[..., Any]) -> Callable[[Callable[P, R]], GateFunction[P, R]]:
    """Declare a gate of your own: a sentence that must be true of a candidate.

    The function receives ``candidate: ml.Candidate`` and returns a :class:`GateResult` or a bool. An exception means not passed.

    Parameters
    ----------
    model
        The model whose candidates are judged.

    Raises
    ------
    DefinitionError
        The function does not take a candidate.
    """

    def decorate(function: Callable[P, R]) -> GateFunction[P, R]:
        read = _named(read_function(function, kind="gate", allowed=_GATE), "a gate")
        if len(read.receiving(Injection.CANDIDATE)) != 1:
            raise DefinitionError(f"gate '{read.name}' does not take a candidate", hint="declare one parameter `candidate: ml.Candidate`")
        return GateFunction(read, model)

    return decorate


def _named(read: UserFunction[P, R], what: str) -> UserFunction[P, R]:
    checked_name(read.name, what)
    return read


def _check_splits(read: UserFunction[P, R]) -> None:
    splits = {parameter.name for parameter in read.receiving(Injection.SPLIT)}
    if "holdout" in splits:
        raise DefinitionError(
            f"model '{read.name}' asks for the holdout",
            hint="fit on train and tune on validation: the holdout judges, so training never sees it",
        )
    if unknown := splits - {"train", "validation"}:
        raise DefinitionError(f"model '{read.name}' asks for the split '{min(unknown)}'", hint="the splits are named train and validation")
    if "train" not in splits:
        raise DefinitionError(f"model '{read.name}' does not take its training data", hint="declare a parameter `train: ml.Split`")


def _check_gates(name: str, metrics: Sequence[str], gates: Sequence[Gate]) -> None:
    if not metrics:
        raise DefinitionError(f"model '{name}' names no metric", hint="give metrics=['roc_auc'] or another scikit-learn scorer name")
    gate_names = [g.name for g in gates]
    if twice := {g for g in gate_names if gate_names.count(g) > 1}:
        raise DefinitionError(f"model '{name}' has two gates named '{min(twice)}'", hint="give one of them another rule or slice")
    for g in gates:
        if g.metric not in metrics:
            raise DefinitionError(
                f"model '{name}': gate '{g.name}' reads the metric '{g.metric}', which is not measured",
                hint=f"add '{g.metric}' to metrics=",
            )
