"""A circuit breaker: when an endpoint does not work, the remaining calls of a batch fail at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_assets.errors import ProviderError

MAX_FAILURES = 8  # in a row


class CircuitBreaker:
    """Counts calls in a row that no model answered because of lost connections or status 5xx; it opens after :data:`MAX_FAILURES`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0

    @property
    def is_open(self) -> bool:
        """Whether further calls should not be made; an open breaker stays open."""
        return self._failures >= MAX_FAILURES

    def count_failure(self, error: ProviderError) -> None:
        """Count a failed call; a failure other than a lost connection or a status 5xx proves that the endpoint works.

        Parameters
        ----------
        error
            The failure.
        """
        broken = error.kind in ("connection", "broken") or (error.status or 0) >= 500
        self._count(broken=broken)

    def count_answer(self) -> None:
        """Count a call that a model answered."""
        self._count(broken=False)

    def _count(self, *, broken: bool) -> None:
        with self._lock:
            if not self.is_open:
                self._failures = self._failures + 1 if broken else 0
