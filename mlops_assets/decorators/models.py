"""Decorators of training sets, models and gates."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.features import OnDemandFeatures
from mlops_assets.values.function import EVERYWHERE, Injection, UserFunction, read_function
from mlops_assets.values.gates.gate import GATE_MEMBERS, Gate
from mlops_assets.values.model import Format, GateFunction, Model, Refit, check_format, check_refit
from mlops_assets.values.names import to_names
from mlops_assets.values.options import AssetArguments, AssetOptions
from mlops_assets.values.training import GroupSplit, TimeSplit, TrainingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_assets.values.features import Features
    from mlops_assets.values.gates.gate import GateLike
    from mlops_assets.values.search import Search

P = ParamSpec("P")
R = TypeVar("R")

_TRAINING_SET = EVERYWHERE | {Injection.TABLE}
_MODEL = EVERYWHERE | {Injection.SPLIT}
_GATE = frozenset({Injection.CANDIDATE, Injection.RESOURCE})


@check_arguments
def training_set(  # noqa: PLR0913  (a flat declaration reads best)
    *,
    label: str,
    split: TimeSplit | GroupSplit,
    features: Sequence[Features] = (),
    columns: Sequence[str] = (),
    event_timestamp: str | None = None,
    label_known_at: str | None = None,
    as_known: bool = True,
    label_copies: Sequence[str] = (),
    block_length: timedelta | None = None,
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], TrainingSet[P, R]]:
    """Declare the rows a model learns from.

    The function receives upstream tables by name and returns the spine: one row per example, with the label, the event
    time, the declared columns and the join keys of the features. Features are then joined as of each row's event time.

    Parameters
    ----------
    label
        The column to predict.
    split
        The rule that divides rows into train, validation and holdout.
    features
        Feature views and on-demand features. Their features, then ``columns``, are the columns of ``X``.
    columns
        Columns of the spine that are features themselves.
    event_timestamp
        The column with the time of the prediction; needed by feature views, a time split and ``block_length``.
    label_known_at
        The column with the time at which the label becomes known; the event time when None.
    as_known
        Whether a join ignores feature rows that became known only after the event time, so that late data does not leak.
    label_copies
        Columns of ``X`` that may reproduce the label, or a monotone or one-to-one function of it, on the holdout. Any other column that does
        so stops the training, because such a column seldom exists at prediction time.
    block_length
        The time over which prediction errors are correlated: confidence intervals of metrics resample whole blocks of this length. Zero
        declares independent rows. When None, the length is estimated from the errors; without event times, rows are independent.
    **options
        Passed to Dagster, as in :func:`dataset`.

    Returns
    -------
    TrainingSet
        The declared training set, still callable as the function.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, or the declarations contradict each other.

    See Also
    --------
    model : Trains on a training set.
    TimeSplit : Splits by time.
    training_frame : The same join of features in a notebook.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="visit")
    ... def visits() -> pl.DataFrame:
    ...     return pl.DataFrame({"visit": [1, 2], "shop": ["a", "b"], "minutes": [3.0, 9.0], "buys": [0, 1]})
    >>> @ml.training_set(columns=["minutes"], label="buys", split=ml.GroupSplit("shop"))
    ... def examples(visits: pl.DataFrame) -> pl.DataFrame:
    ...     return visits
    >>> examples.key
    'training_set/examples'
    """

    def decorate(function: Callable[P, R]) -> TrainingSet[P, R]:
        user_function = read_function(function, kind="training_set", allowed=_TRAINING_SET, what="a training set")
        X, times, options_ = (tuple(features), to_names(columns)), (event_timestamp, label_known_at), AssetOptions.from_arguments(options)
        value = TrainingSet(user_function, *X, label, split, *times, as_known, to_names(label_copies), block_length, options_)
        if block_length is not None and (event_timestamp is None or block_length < timedelta(0)):
            raise DefinitionError(
                f"training set '{value.name}' declares block_length={block_length}, which needs an event_timestamp and a length of 0 or more",
                hint="set event_timestamp= to the column with the time of each row, and a positive timedelta, or timedelta(0) for independent rows",
            )
        if event_timestamp is None and (isinstance(split, TimeSplit) or any(not isinstance(f, OnDemandFeatures) for f in features)):
            raise DefinitionError(
                f"training set '{value.name}' declares no event_timestamp, but splits by time or looks features up",
                hint="name the column with the time of each row",
            )
        return value

    return decorate


@check_arguments
def model(  # noqa: PLR0913  (a flat declaration reads best)
    *,
    training_set: TrainingSet[..., Any],
    metrics: Sequence[str],
    gates: Sequence[GateLike] = (),
    slices: Sequence[str] = (),
    cron_schedule: str | None = None,
    cron_timezone: str = "UTC",
    trusted_types: Sequence[str] = (),
    format: Format = "skops",  # noqa: A002  (the field's word)
    approval: bool = False,
    search: Search | None = None,
    limits: Sequence[str] = (),
    positive: str | bool | float | None = None,
    refit: Refit | None = None,
    **options: Unpack[AssetArguments],
) -> Callable[[Callable[P, R]], Model[P, R]]:
    """Declare a model trained by a function.

    The function receives ``train: ml.Split`` and, where it declares them, ``validation: ml.Split`` to tune on, a ``dagster.Config`` subclass
    with its hyperparameters, and resources. It returns a fitted scikit-learn estimator. It does not see the holdout, on which metrics are
    measured and gates decide; only a ``refit`` adds it to ``train``, after the gates.

    Parameters
    ----------
    training_set
        The training set to fit on.
    metrics
        scikit-learn scorer names; a greater value is better. A search without a metric of its own maximises the first.
    gates
        The gates that a candidate must pass before it can be registered.
    slices
        Columns of the training set. Metrics are also measured on the rows of each value of such a column: of its 50 most frequent values,
        and of rarer ones that a gate names or that have enough rows for a gate on every value of the column.
    cron_schedule, cron_timezone
        The cron schedule of building the training set and training the model, and its time zone. It does not materialise datasets and
        feature views. None for no schedule.
    trusted_types
        Qualified names of types beyond scikit-learn's own that a stored model may contain.
    format
        The format of the stored model: ``skops``; ``native``, the file format of LightGBM or XGBoost; ``onnx``, whose predictions are
        verified to agree with the estimator's; or ``pickle``, which needs ``MLOPS_ALLOW_PICKLE=1``.
    approval
        Whether a person must approve a version before it can become champion.
    search
        Hyperparameters to search for before the training.
    limits
        Known limits and excluded uses, as sentences for the model card.
    positive
        The positive class of a binary label, as a value of the label; the second class when None. Metrics such as ``recall`` need it unless
        the classes are False and True, 0 and 1, or -1 and 1.
    refit
        ``after_gates``: once the gates have passed, the function is called again with the same parameters and every row of train, validation
        and holdout as its ``train``. This second fit serves; metrics and gate results stay those of the first fit. When None, the first fit
        serves.
    **options
        Passed to Dagster, as in :func:`dataset`.

    Returns
    -------
    Model
        The declared model, still callable as the function.

    Raises
    ------
    DefinitionError
        A parameter cannot be injected, no metric is named, a gate reads another metric, two gates have one name, there is no such format, or
        the declarations contradict each other.

    See Also
    --------
    training_set : The rows of the model.
    Gate : What a candidate must pass.
    load_model : Load a registered version.

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
    >>> buyer.key
    'model/buyer'
    """

    def decorate(function: Callable[P, R]) -> Model[P, R]:
        user_function = read_function(function, kind="model", allowed=_MODEL, what="a model")
        _check_splits(user_function)
        _check_gates(user_function.name, metrics, gates)
        check_format(format, user_function.name)
        check_refit(refit, user_function.name)
        _check_validation(user_function, training_set, search)
        _check_refit_without_tuning(user_function, refit)
        if search is not None:
            search.check(user_function.parameters_for(Injection.CONFIG), metrics, f"model '{user_function.name}'")
        evaluation, schedule = (to_names(metrics), tuple(gates), to_names(slices)), (cron_schedule, cron_timezone)
        storage, limits_, options_ = (to_names(trusted_types), format), to_names(limits), AssetOptions.from_arguments(options)
        return Model(
            user_function, training_set, *evaluation, *schedule, *storage, approval, search, limits_, positive, refit, options=options_
        )

    return decorate


@check_arguments
def gate(model: Model[..., Any]) -> Callable[[Callable[P, R]], GateFunction[P, R]]:
    """Declare a gate of your own: a condition that a candidate must meet.

    The function receives ``candidate: ml.Candidate``, and resources where it declares them. It returns a :class:`GateResult` or a bool. An
    exception means not passed.

    Parameters
    ----------
    model
        The model whose candidates are judged.

    Returns
    -------
    GateFunction
        The declared gate, still callable as the function.

    Raises
    ------
    DefinitionError
        The function does not take exactly one candidate, or a parameter cannot be injected.

    See Also
    --------
    Gate : A gate on a metric, without a function.
    GateResult : What the function may return.

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
    >>> @ml.gate(buyer)
    ... def is_better_than_chance(candidate: ml.Candidate) -> bool:
    ...     return candidate.evaluation.metric("roc_auc") > 0.5
    >>> is_better_than_chance.name
    'is_better_than_chance'
    """

    def decorate(function: Callable[P, R]) -> GateFunction[P, R]:
        user_function = read_function(function, kind="gate", allowed=_GATE, what="a gate")
        if len(user_function.parameters_for(Injection.CANDIDATE)) != 1:
            raise DefinitionError(
                f"gate '{user_function.name}' does not take a candidate", hint="declare one parameter `candidate: ml.Candidate`"
            )
        return GateFunction(user_function, model)

    return decorate


def _check_splits(user_function: UserFunction[P, R]) -> None:
    """Raise DefinitionError unless the function takes ``train`` and no other split than ``validation``."""
    splits = {parameter.name for parameter in user_function.parameters_for(Injection.SPLIT)}
    if "holdout" in splits:
        raise DefinitionError(
            f"model '{user_function.name}' takes the holdout",
            hint="fit on train and tune on validation: the holdout is for metrics and gates",
        )
    if unknown := splits - {"train", "validation"}:
        raise DefinitionError(
            f"model '{user_function.name}' takes the split '{min(unknown)}'", hint="the splits are named train and validation"
        )
    if "train" not in splits:
        raise DefinitionError(f"model '{user_function.name}' does not take its training data", hint="declare a parameter `train: ml.Split`")


def _check_validation(user_function: UserFunction[P, R], training_set: TrainingSet[..., Any], search: Search | None) -> None:
    """Raise DefinitionError for a model that tunes on a validation part that its training set does not have."""
    if not isinstance(training_set.split, TimeSplit) or training_set.split.validation is not None:
        return
    tunes = "searches hyperparameters" if search is not None else "takes `validation: ml.Split`"
    if search is not None or user_function.takes_validation:
        raise DefinitionError(
            f"model '{user_function.name}' {tunes}, but '{training_set.key}' has no validation part",
            hint="give one: ml.TimeSplit(validation=timedelta(...), holdout=...)",
        )


def _check_refit_without_tuning(user_function: UserFunction[P, R], refit: Refit | None) -> None:
    """Raise DefinitionError for a refit of a function that tunes, because the refit trains on the validation rows too."""
    if refit is not None and user_function.takes_validation:
        raise DefinitionError(
            f"model '{user_function.name}' takes `validation: ml.Split` and declares refit='{refit}', which trains on the validation rows too",
            hint="tune with search=ml.Search(...), whose best parameters the refit keeps, or omit refit=",
        )


def _check_gates(name: str, metrics: Sequence[str], gates: Sequence[GateLike]) -> None:
    """Raise DefinitionError without metrics, for an object that is not a gate, a repeated gate name, or a gate on an unmeasured metric."""
    if not metrics:
        raise DefinitionError(f"model '{name}' declares no metric", hint="set metrics=['roc_auc'] or another scikit-learn scorer name")
    for declared in gates:
        if missing := [member for member in GATE_MEMBERS if not hasattr(declared, member)]:
            hint = "remove it from gates=: @ml.gate(model) adds it" if isinstance(declared, GateFunction) else "give ml.Gate(…)"
            raise DefinitionError(
                f"model '{name}': a {type(declared).__name__} in gates= is not a gate: it has no '{missing[0]}'", hint=hint
            )
    gate_names = [g.name for g in gates]
    if duplicated := {g for g in gate_names if gate_names.count(g) > 1}:
        raise DefinitionError(f"model '{name}' has two gates named '{min(duplicated)}'", hint="give one of them another rule or slice")
    for declared in gates:
        if isinstance(declared, Gate) and declared.metric not in metrics:
            raise DefinitionError(
                f"model '{name}': gate '{declared.name}' reads the metric '{declared.metric}', which is not measured",
                hint=f"add '{declared.metric}' to metrics=",
            )
