"""The expectation that features do not drift, and statistics with a fixed threshold that replace a column's default statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.names import to_names

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_WEEKS = 26  # of a seasonal reference: half of a year
MIN_CLASSIFIED_ROWS = 100  # of a window


@dataclass(frozen=True)
class DriftThreshold:
    """A drift statistic with a fixed threshold; use one of its subclasses.

    Parameters
    ----------
    value
        The threshold: a column whose statistic exceeds it has drifted.

    Raises
    ------
    DefinitionError
        The threshold is negative, or it is not below the statistic's maximum.

    See Also
    --------
    mlops_assets.Drift : Takes thresholds by column.
    """

    STATISTIC: ClassVar[str] = ""  # the name in the table of drift statistics
    MAXIMUM: ClassVar[float] = math.inf  # the largest value that the statistic can have

    value: float

    def __post_init__(self) -> None:
        """Refuse a threshold that no window or every window exceeds."""
        if not 0 <= self.value < self.MAXIMUM:
            below = f", and below {self.MAXIMUM:g}" if math.isfinite(self.MAXIMUM) else ""
            raise DefinitionError(
                f"{type(self).__name__}({self.value}) is not a threshold of 0 or more{below}", hint=f"set e.g. {type(self).__name__}(0.1)"
            )


@check_constructor
@dataclass(frozen=True)
class PSI(DriftThreshold):
    """Test a column by the population stability index, over the deciles or categories of the reference.

    Parameters
    ----------
    value
        The threshold, e.g. 0.2; a PSI has no maximum.

    Raises
    ------
    DefinitionError
        The threshold is negative or not finite.

    See Also
    --------
    mlops_assets.monitoring.JensenShannon : A distance of at most 1 over the same bins.
    mlops_assets.Drift : Takes thresholds by column.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(columns={"temp": ml.monitoring.PSI(0.2)}).thresholds
    {'temp': PSI(value=0.2)}
    """

    STATISTIC = "psi"


@check_constructor
@dataclass(frozen=True)
class KolmogorovSmirnov(DriftThreshold):
    """Test a numeric column by the largest difference of the distribution functions.

    Parameters
    ----------
    value
        The threshold, from 0 to 1.

    Raises
    ------
    DefinitionError
        The threshold is negative, or 1 or more.

    See Also
    --------
    mlops_assets.monitoring.Wasserstein : Depends on how far values move.
    mlops_assets.Drift : Takes thresholds by column.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(columns={"temp": ml.monitoring.KolmogorovSmirnov(0.3)}).columns
    ('temp',)
    """

    STATISTIC = "ks"
    MAXIMUM = 1.0


@check_constructor
@dataclass(frozen=True)
class Wasserstein(DriftThreshold):
    """Test a numeric column by the Wasserstein-1 distance, in standard deviations of the reference.

    Parameters
    ----------
    value
        The threshold in standard deviations.

    Raises
    ------
    DefinitionError
        The threshold is negative or not finite.

    See Also
    --------
    mlops_assets.monitoring.KolmogorovSmirnov : Does not depend on how far values move.
    mlops_assets.Drift : Takes thresholds by column.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(columns={"temp": ml.monitoring.Wasserstein(0.5)}).columns
    ('temp',)
    """

    STATISTIC = "wasserstein"


@check_constructor
@dataclass(frozen=True)
class JensenShannon(DriftThreshold):
    """Test a column by the Jensen–Shannon distance (base 2), over the deciles or categories of the reference.

    Parameters
    ----------
    value
        The threshold, from 0 to 1.

    Raises
    ------
    DefinitionError
        The threshold is negative, or 1 or more.

    See Also
    --------
    mlops_assets.monitoring.PSI : Has no maximum.
    mlops_assets.Drift : Takes thresholds by column.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(columns={"carrier": ml.monitoring.JensenShannon(0.1), "temp": None}).columns
    ('carrier', 'temp')
    """

    STATISTIC = "js"
    MAXIMUM = 1.0


@check_constructor
@dataclass(frozen=True)
class SameWeeks:
    """Compare a window with the training rows of the same weeks of earlier years, instead of all training rows.

    Parameters
    ----------
    years
        The number of years to look back: 1 takes the weeks of the previous year only, 2 those of the previous two years.
    weeks
        The number of weeks of each year, around the week of the window.

    Raises
    ------
    DefinitionError
        A number is below 1, or ``weeks`` is above 26.

    See Also
    --------
    mlops_assets.Drift : Takes it as its reference.

    Notes
    -----
    Thresholds are calibrated on the windows of these weeks: they need a span of 20 windows or more, which is 3 weeks for daily windows and 20
    weeks for weekly ones. With a shorter span, fewer than 100 training rows, or fewer than 8 windows with 30 rows or more, the report
    compares with all training rows and says so. Predictions are always compared with those for the whole holdout.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(reference=ml.monitoring.SameWeeks(weeks=5)).reference
    SameWeeks(years=1, weeks=5)
    """

    years: int = 1
    weeks: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers that select no rows, or those of the opposite season."""
        if self.years < 1 or not 1 <= self.weeks <= MAX_WEEKS:
            raise DefinitionError(
                f"SameWeeks(years={self.years}, weeks={self.weeks}) is not 1 year or more and 1 to {MAX_WEEKS} weeks",
                hint="set e.g. SameWeeks(years=1, weeks=3)",
            )


@check_constructor
@dataclass(frozen=True)
class DomainClassifier:
    """Test the rows of a window by how well gradient boosting separates them from those of the reference.

    It finds changes of a joint distribution that leave each column, and each pair of columns, unchanged. A version stores a sample of its
    training rows for it: three times ``max_rows``, and at most 5,000. Columns of texts and embeddings take no part.

    ``mlops features erase`` does not reach these rows. After an erasure, train again and delete the profiles of older versions. Omit
    columns with personal data from ``columns=`` of :class:`mlops_assets.Drift`.

    Parameters
    ----------
    max_rows
        The maximum number of rows of a window that are classified, 100 or more; of a larger window, an even sample is classified.

    Raises
    ------
    DefinitionError
        ``max_rows`` is below 100.

    See Also
    --------
    mlops_assets.Drift : Takes a domain classifier.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(classifier=ml.monitoring.DomainClassifier(max_rows=500)).classifier.max_rows
    500
    """

    max_rows: int = 1_000

    def __post_init__(self) -> None:
        """Refuse samples that are too small to learn from."""
        if self.max_rows < MIN_CLASSIFIED_ROWS:
            raise DefinitionError(
                f"DomainClassifier(max_rows={self.max_rows}) is below {MIN_CLASSIFIED_ROWS}", hint="omit max_rows= for the default of 1,000"
            )


@check_constructor
@dataclass(frozen=True, init=False)
class Drift:
    """The expectation that features, and optionally predictions, are distributed as in training.

    Drift raises a warning and never starts a retraining.

    Parameters
    ----------
    columns
        The columns of ``X`` to compare; all when None. A mapping gives a column a statistic with a fixed threshold of
        :mod:`mlops_assets.monitoring`, e.g. ``{"temp": ml.monitoring.PSI(0.2), "wind": None}``; None keeps the calibrated default.
        A column of texts or embeddings keeps the default in any case, and the report says so.
    false_alarm_rate
        The expected share of windows without drift that are reported as drifted. Columns with a fixed threshold do not count.
    min_psi
        The minimum effect as a population stability index: a smaller change never counts as drift, however many rows show it. A normal column
        whose mean moves by a third of a standard deviation has 0.1; the other statistics have minima that correspond to the same shift.
    predictions
        Whether predictions are compared with those of the same version for its holdout: the predicted value or class, and probabilities.
        Predictions use a quarter of ``false_alarm_rate``.
    reference
        The training rows to compare with: :class:`mlops_assets.monitoring.SameWeeks` of earlier years, for seasonal data; all when None.
    classifier
        Whether a domain classifier compares all columns together, in addition to each column; or its options. False by default.

    Raises
    ------
    DefinitionError
        The rate is not between 0 and 1, the minimum effect is negative or not finite, or ``columns`` is empty. Or there is a classifier and a
        seasonal reference.

    See Also
    --------
    Performance : The expectation on a metric.
    Monitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Drift(false_alarm_rate=0.05).name
    'no_drift'
    """

    columns: tuple[str, ...] | None
    fixed: tuple[tuple[str, DriftThreshold], ...]
    false_alarm_rate: float
    min_psi: float
    predictions: bool
    reference: SameWeeks | None
    classifier: DomainClassifier | None

    def __init__(  # noqa: PLR0913  (what a monitor declares)
        self,
        columns: str | Sequence[str] | Mapping[str, DriftThreshold | None] | None = None,
        *,
        false_alarm_rate: float = 0.01,
        min_psi: float = 0.1,
        predictions: bool = False,
        reference: SameWeeks | None = None,
        classifier: bool | DomainClassifier = False,
    ) -> None:
        by_column = dict(columns) if isinstance(columns, Mapping) else {}
        if unexpected := [(name, value) for name, value in by_column.items() if not isinstance(value, (DriftThreshold, type(None)))]:
            raise DefinitionError(
                f"Drift: {unexpected[0][1]!r} is not a threshold for column '{unexpected[0][0]}'",
                hint="give a statistic with its threshold, e.g. ml.monitoring.PSI(0.2), or None for the default",
            )
        object.__setattr__(
            self, "columns", None if columns is None else to_names(tuple(columns) if isinstance(columns, Mapping) else columns)
        )
        object.__setattr__(self, "fixed", tuple((name, value) for name, value in sorted(by_column.items()) if value is not None))
        object.__setattr__(self, "false_alarm_rate", false_alarm_rate)
        object.__setattr__(self, "min_psi", min_psi)
        object.__setattr__(self, "predictions", predictions)
        object.__setattr__(self, "reference", reference)
        chosen = classifier if isinstance(classifier, DomainClassifier) else DomainClassifier() if classifier else None
        object.__setattr__(self, "classifier", chosen)
        if not 0 < false_alarm_rate < 1:
            raise DefinitionError(f"Drift(false_alarm_rate={false_alarm_rate}) is not a share between 0 and 1", hint="set e.g. 0.01")
        if not 0 <= min_psi < math.inf:
            raise DefinitionError(f"Drift(min_psi={min_psi}) is not a PSI of 0 or more", hint="set e.g. 0.1")
        if self.classifier and self.reference:
            raise DefinitionError(
                "Drift cannot combine a domain classifier with a seasonal reference, because the classifier is calibrated on all training rows",
                hint="omit classifier= or reference=",
            )
        if self.columns == ():
            raise DefinitionError("Drift(columns=()) compares nothing", hint="name a column, or omit columns= to compare all")

    @property
    def name(self) -> str:
        """The name of the asset check."""
        return "no_drift"

    @property
    def thresholds(self) -> dict[str, DriftThreshold]:
        """Column → its statistic with a fixed threshold."""
        return dict(self.fixed)
