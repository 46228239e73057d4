"""Service-level objectives: how fast a service answers, how rarely it fails, and how rarely features are missing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor

_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Objective:
    """A service-level objective with an error budget, the allowed share of bad requests or values; use one of its subclasses.

    Parameters
    ----------
    period
        The length of the period of the error budget; the period ends with the window.
    min_requests
        The minimum number of requests; for latency and missing features, only answered requests count. A window with fewer is evaluated
        only if the period has this many and its error budget is exhausted.
    """

    NAME: ClassVar[str] = ""

    period: timedelta = _MONTH
    min_requests: int = 100

    def __post_init__(self) -> None:
        """Refuse a period that is not positive, a number below 1, and an allowed share that is not between 0 and 1."""
        described = type(self).__name__
        if self.period <= timedelta(0) or self.min_requests < 1:
            raise DefinitionError(
                f"{described}: period={self.period} or min_requests={self.min_requests} is invalid",
                hint="give a positive period, and 1 or more",
            )
        if not 0 < self.allowed < 1:
            raise DefinitionError(f"{described} allows a share of {self.allowed}", hint="give a share between 0 and 1, e.g. at_most=0.001")

    @property
    def name(self) -> str:
        """The name of the asset check."""
        return self.NAME

    @property
    def allowed(self) -> float:
        """The allowed share of bad requests or values."""
        raise NotImplementedError

    @property
    def bound(self) -> float:
        """The bound of the value that reports show."""
        return self.allowed


@check_constructor
@dataclass(frozen=True, init=False)
class Latency(Objective):
    """The objective that a quantile of the time to an answer is at most a bound. Refused and failed requests have no latency.

    The error budget is the share above the quantile: ``p95=0.05`` allows 5 % of the answers to take longer than 0.05 s.

    Parameters
    ----------
    p50, p95, p99
        The maximum of one quantile, in seconds.
    period, min_requests
        As in :class:`Objective`.

    Raises
    ------
    DefinitionError
        Not exactly one quantile is given, or a number is out of range.

    See Also
    --------
    ErrorRate : The share of failed requests.
    mlops_assets.Monitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> fast = ml.monitoring.Latency(p95=0.05)
    >>> (fast.name, fast.bound, round(fast.allowed, 3))
    ('latency_p95', 0.05, 0.05)
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    def __init__(
        self,
        *,
        p50: float | None = None,
        p95: float | None = None,
        p99: float | None = None,
        period: timedelta = _MONTH,
        min_requests: int = 100,
    ) -> None:
        values = {"p50": p50, "p95": p95, "p99": p99, "period": period, "min_requests": min_requests}
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        given = [value for value in (p50, p95, p99) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise DefinitionError("Latency takes exactly one of p50, p95 and p99, above 0", hint="write e.g. Latency(p95=0.05)")
        self.__post_init__()

    @property
    def quantile(self) -> float:
        """The quantile as a share: 0.5, 0.95 or 0.99."""
        return next(share for share, value in ((0.5, self.p50), (0.95, self.p95), (0.99, self.p99)) if value is not None)

    @property
    def name(self) -> str:
        """The name of the asset check: ``latency_p95``."""
        return f"latency_p{self.quantile * 100:.0f}"

    @property
    def allowed(self) -> float:
        """The allowed share of slow answers."""
        return 1 - self.quantile

    @property
    def bound(self) -> float:
        """The maximum of the quantile, in seconds."""
        return next(value for value in (self.p50, self.p95, self.p99) if value is not None)


@dataclass(frozen=True)
class _Share(Objective):
    """An objective on a share."""

    at_most: float = 0.0

    @property
    def allowed(self) -> float:
        """The allowed share."""
        return self.at_most


@check_constructor
@dataclass(frozen=True, init=False)
class ErrorRate(_Share):
    """The objective that the share of requests that fail is at most a bound.

    A request fails with a status of 500 or more. A refused request, with 400 to 499, does not count: its sender can correct it.

    Parameters
    ----------
    at_most
        The maximum share of failed requests.
    period, min_requests
        As in :class:`Objective`.

    Raises
    ------
    DefinitionError
        A number is out of range.

    See Also
    --------
    Latency : The time to an answer.
    mlops_assets.Monitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.monitoring.ErrorRate(at_most=0.001).name
    'error_rate'
    """

    NAME: ClassVar[str] = "error_rate"

    def __init__(self, *, at_most: float, period: timedelta = _MONTH, min_requests: int = 100) -> None:
        super().__init__(period, min_requests, at_most)


@check_constructor
@dataclass(frozen=True, init=False)
class MissingFeatures(_Share):
    """The objective that the share of looked-up feature values that are missing is at most a bound.

    A value is missing when it was not found, is null, or is older than its ``ttl``, even if the view declares a default.

    Parameters
    ----------
    at_most
        The maximum share of missing values.
    period, min_requests
        As in :class:`Objective`.

    Raises
    ------
    DefinitionError
        A number is out of range.

    See Also
    --------
    ErrorRate : The share of failed requests.
    mlops_assets.Monitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.monitoring.MissingFeatures(at_most=0.02).bound
    0.02
    """

    NAME: ClassVar[str] = "missing_features"

    def __init__(self, *, at_most: float, period: timedelta = _MONTH, min_requests: int = 100) -> None:
        super().__init__(period, min_requests, at_most)
