"""Monitors of a model's predictions, and the retraining that follows a breach."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.decisions import ESTIMATED, PERFORMANCE, Retrain
from mlops_assets.values.drift import Drift
from mlops_assets.values.expectations.error_change import ErrorChange
from mlops_assets.values.expectations.estimated_performance import EstimatedPerformance
from mlops_assets.values.expectations.objectives import ErrorRate, Latency, MissingFeatures, Objective
from mlops_assets.values.gates.rule import OneRule
from mlops_assets.values.names import to_names, validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions
from mlops_assets.values.serving import BatchPrediction, Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from mlops_assets.values.model import Model

# States of a window. CANNOT is final: more data would not help. INVERTED holds every retraining until a person looks at the labels.
GOOD, BREACH, NOT_ENOUGH, IN_TRAINING = "good", "breach", "not enough data", "in training data"
CANNOT, INVERTED = "cannot be measured", "labels look inverted"


@check_constructor
@dataclass(frozen=True, init=False)
class Performance(OneRule):
    """The expectation that one metric of a window's labelled predictions meets a bound.

    Parameters
    ----------
    metric
        A scikit-learn scorer name; greater is better.
    at_least
        The minimum of the metric.
    no_worse_than_reference_by
        How far the metric may be below the metric of the same version on its holdout.
    min_labels
        The minimum number of labels; a window with fewer is not evaluated.
    min_coverage
        The minimum share of predictions with a label; a window with a smaller share is not evaluated.
    slices
        Columns; the metric is also reported for each of their values, but only the metric of all rows decides.
    significant
        If True, a value is a breach only when its whole confidence interval is below the bound.
    confidence
        The confidence level of the interval. A monitor uses one level, the highest of its expectations, in the report and for
        ``significant``.

    Raises
    ------
    DefinitionError
        Not exactly one rule is given, or a number is out of range.

    See Also
    --------
    Drift : Compares inputs with the training set.
    Monitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Performance("roc_auc", at_least=0.62).name
    'roc_auc_at_least'
    """

    RULES: ClassVar = ("at_least", "no_worse_than_reference_by")

    metric: str
    at_least: float | None
    no_worse_than_reference_by: float | None
    min_labels: int
    min_coverage: float
    slices: tuple[str, ...]
    significant: bool
    confidence: float

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        metric: str,
        *,
        at_least: float | None = None,
        no_worse_than_reference_by: float | None = None,
        min_labels: int = 200,
        min_coverage: float = 0.5,
        slices: str | Sequence[str] = (),
        significant: bool = False,
        confidence: float = 0.95,
    ) -> None:
        values = {
            "metric": metric,
            "at_least": at_least,
            "no_worse_than_reference_by": no_worse_than_reference_by,
            "min_labels": min_labels,
            "min_coverage": min_coverage,
            "slices": to_names(slices),
            "significant": significant,
            "confidence": confidence,
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        self._check_rule(f"Performance('{self.metric}')")
        if self.no_worse_than_reference_by is not None and self.threshold < 0:
            raise DefinitionError(
                f"Performance('{self.metric}', no_worse_than_reference_by={self.threshold}) has a negative distance",
                hint="give a distance of 0 or more",
            )
        if self.min_labels < 1 or not 0 <= self.min_coverage <= 1 or not 0 < self.confidence < 1:
            raise DefinitionError(
                f"Performance('{self.metric}'): min_labels={self.min_labels}, min_coverage={self.min_coverage} "
                f"or confidence={self.confidence} is invalid",
                hint="give at least one label, and shares between 0 and 1",
            )

    @property
    def name(self) -> str:
        """Metric and rule: the name of the asset check."""
        return f"{self.metric}_{self.rule.removesuffix('_by')}"


Expectation = Drift | Performance | ErrorChange | EstimatedPerformance | Latency | ErrorRate | MissingFeatures


@check_constructor
@dataclass(frozen=True, init=False)
class Monitor:
    """Reports on each window of a model's predictions: on drift, performance, estimates and objectives, as its expectations need.

    A window in which several versions predicted has one report for each version.

    Parameters
    ----------
    name
        Names the assets ``drift_report/<name>_drift``, ``performance_report/<name>_performance``, ``estimate_report/<name>_estimate`` and
        ``system_report/<name>_system``.
    of
        The service or batch prediction to watch.
    partitions
        The windows: a Dagster time-window partitions definition. None takes the partitions of a batch prediction's dataset.
    expectations
        The expectations of each window; each expectation is an asset check.
    on_failure
        The rule by which the model is retrained; None for no retraining.
    min_rows
        The minimum number of rows of a window; drift is not evaluated in a window with fewer.
    labels_within
        How long after a window its labels may arrive, for tables that are partitioned by the time of arrival. The partitions until then are
        searched for labels, and each new partition updates the performance report. Zero: labels are in the partitions of the window.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        There are no partitions or no expectations, two expectations have one name, or ``on_failure`` needs an expectation that
        is not declared.

    See Also
    --------
    Service : Predicts over HTTP.
    BatchPrediction : Predicts partitions of a dataset.
    Drift : An expectation on inputs.
    Performance : An expectation on a metric.

    Examples
    --------
    >>> import dagster as dg
    >>> import polars as pl
    >>> from sklearn.linear_model import LogisticRegression
    >>> import mlops_assets as ml
    >>> @ml.dataset(key="id")
    ... def visits() -> pl.LazyFrame: ...
    >>> @ml.training_set(label="bought", columns=["minutes"], features=[], split=ml.GroupSplit("shop"))
    ... def examples(visits: pl.LazyFrame) -> pl.LazyFrame: ...
    >>> @ml.model(training_set=examples, metrics=["roc_auc"])
    ... def buyer(train: ml.Split) -> LogisticRegression: ...
    >>> api = ml.Service("api", model=buyer)
    >>> expected = (ml.Drift(), ml.Performance("roc_auc", at_least=0.62))
    >>> daily = dg.DailyPartitionsDefinition("2024-01-01")
    >>> watch = ml.Monitor("watch", of=api, partitions=daily, expectations=expected, on_failure=ml.Retrain())
    >>> watch.performance_key
    'performance_report/watch'
    """

    name: str
    of: Service | BatchPrediction
    partitions: dg.PartitionsDefinition
    expectations: tuple[Expectation, ...]
    on_failure: Retrain | None
    min_rows: int
    labels_within: timedelta
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        of: Service | BatchPrediction,
        partitions: dg.PartitionsDefinition | None = None,
        expectations: Expectation | Sequence[Expectation] = (Drift(),),  # noqa: B008  (a frozen value)
        on_failure: Retrain | None = None,
        min_rows: int = 100,
        labels_within: timedelta = timedelta(0),
        **options: object,
    ) -> None:
        values = {
            "name": validate_name(name, "a monitor"),
            "of": _check_watched(name, of),
            "partitions": _choose_windows(name, of, partitions),
            "expectations": tuple(expectations) if isinstance(expectations, (tuple, list)) else (expectations,),
            "on_failure": on_failure,
            "min_rows": min_rows,
            "labels_within": labels_within,
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        if unexpected := [
            e for e in self.expectations if not isinstance(e, (Drift, Performance, ErrorChange, EstimatedPerformance, Objective))
        ]:
            raise DefinitionError(
                f"monitor '{self.name}' expects {unexpected[0]!r}",
                hint="expectations are Drift(…), Performance(…), monitoring.EstimatedPerformance(…), ErrorChange(…) and objectives of a service",
            )
        if self.objectives and not isinstance(self.of, Service):
            raise DefinitionError(
                f"monitor '{self.name}' expects {self.objectives[0].name} of a batch prediction, which has no requests",
                hint="give the objective to a monitor of a service",
            )
        checks = [expectation.name for expectation in self.expectations]
        if not checks:
            raise DefinitionError(f"monitor '{self.name}' has no expectations", hint="add expectations=(ml.Drift(), …)")
        if duplicated := [check for check in checks if checks.count(check) > 1]:
            raise DefinitionError(
                f"monitor '{self.name}' expects '{duplicated[0]}' twice", hint="give each metric and rule once, and Drift once"
            )
        if self.on_failure is not None:
            check_triggers(self.on_failure, self, f"monitor '{self.name}'")
        if self.drift and self.drift.reference and self.model.training_set.event_timestamp is None:
            raise DefinitionError(
                f"monitor '{self.name}' compares with {self.drift.reference}, but '{self.model.training_set.key}' has no event times",
                hint="add event_timestamp= to the training set, or omit reference=",
            )
        if self.min_rows < 1:
            raise DefinitionError(f"monitor '{self.name}': min_rows={self.min_rows} is invalid", hint="give 1 or more")
        if self.labels_within < timedelta(0):
            raise DefinitionError(f"monitor '{self.name}': labels_within={self.labels_within} is invalid", hint="give a time of 0 or more")

    @property
    def drift_key(self) -> str:
        """``drift_report/<name>``: the declared key; the asset's name ends in ``_drift``."""
        return f"drift_report/{self.name}"

    @property
    def performance_key(self) -> str:
        """``performance_report/<name>``: the declared key; the asset's name ends in ``_performance``."""
        return f"performance_report/{self.name}"

    @property
    def estimate_key(self) -> str:
        """``estimate_report/<name>``: the declared key; the asset's name ends in ``_estimate``."""
        return f"estimate_report/{self.name}"

    @property
    def system_key(self) -> str:
        """``system_report/<name>``: the declared key; the asset's name ends in ``_system``."""
        return f"system_report/{self.name}"

    @property
    def predictions_key(self) -> str:
        """``predictions/<name>`` of the service or batch prediction."""
        return self.of.predictions_key if isinstance(self.of, Service) else self.of.key

    @property
    def model(self) -> Model[..., Any]:
        """The model that predicts."""
        return self.of.model

    @property
    def drift(self) -> Drift | None:
        """The expectation that features do not drift; None without one."""
        return next((e for e in self.expectations if isinstance(e, Drift)), None)

    @property
    def performance(self) -> tuple[Performance, ...]:
        """The expectations of metrics, in the declared order."""
        return tuple(e for e in self.expectations if isinstance(e, Performance))

    @property
    def error_change(self) -> ErrorChange | None:
        """The expectation that the error does not increase; None without one."""
        return next((e for e in self.expectations if isinstance(e, ErrorChange)), None)

    @property
    def label_expectations(self) -> tuple[Performance | ErrorChange, ...]:
        """The expectations that the performance report evaluates by labels: metrics, then the error."""
        return (*self.performance, *((self.error_change,) if self.error_change else ()))

    @property
    def estimates(self) -> tuple[EstimatedPerformance, ...]:
        """The expectations of estimated metrics, in the declared order."""
        return tuple(e for e in self.expectations if isinstance(e, EstimatedPerformance))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the service, in the declared order."""
        return tuple(e for e in self.expectations if isinstance(e, Objective))


def check_triggers(policy: Retrain, monitor: Monitor | None, where: str) -> None:
    """Raise DefinitionError for a retraining on reports that a monitor does not make.

    Parameters
    ----------
    policy
        The retraining.
    monitor
        The monitor whose reports start it; None when the model has none.
    where
        The place of the retraining, for error messages.
    """
    if PERFORMANCE in policy.on and not (monitor and monitor.label_expectations):
        raise DefinitionError(
            f"{where} retrains on failure but has no expectation of performance: drift alone never retrains",
            hint="add ml.Performance(metric, at_least=…), or retrain by time alone: ml.Retrain(every=…, on=())",
        )
    if ESTIMATED in policy.on and not (monitor and monitor.estimates):
        raise DefinitionError(
            f"{where} retrains on estimated performance but estimates none",
            hint="add ml.monitoring.EstimatedPerformance(metric, at_least=…) to the monitor",
        )


def _check_watched(name: str, of: Service | BatchPrediction) -> Service | BatchPrediction:
    if not isinstance(of, (Service, BatchPrediction)):
        raise DefinitionError(f"monitor '{name}' watches a {type(of).__name__}", hint="pass an ml.Service or an ml.BatchPrediction as of=")
    return of


def _choose_windows(name: str, of: Service | BatchPrediction, declared: dg.PartitionsDefinition | None) -> dg.PartitionsDefinition:
    """Return the declared partitions, or those of the predicted dataset; raise DefinitionError when these are not time windows."""
    chosen = declared if declared is not None or isinstance(of, Service) else of.dataset.table.partitions
    if chosen is None:
        raise DefinitionError(f"monitor '{name}' has no windows", hint="pass partitions=, e.g. a dg.DailyPartitionsDefinition")
    if not hasattr(chosen, "time_window_for_partition_key"):
        raise DefinitionError(
            f"monitor '{name}' has partitions of type {type(chosen).__name__}", hint="use time-window partitions (hourly to yearly)"
        )
    return chosen
