"""The spending of one request of a call: each attempt is reserved before it is sent, and settled when it has ended."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from mlops_assets.errors import InstallationError
from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.stores.llm.budget_ledger import QuotaError, Spending

if TYPE_CHECKING:
    from mlops_assets.serving.llm.failures import FailedAttempt
    from mlops_assets.stores.llm.budget_ledger import BudgetLedger


class CallSpending:
    """Reserves and settles the attempts of one request, which are tried one after another.

    Parameters
    ----------
    ledger
        The ledger that counts the attempts.
    api_key
        The name of the client's key; empty without one.
    maximum
        The maximum that one attempt may use.
    """

    def __init__(self, ledger: BudgetLedger, api_key: str, maximum: Spending) -> None:
        self._ledger, self._api_key, self._maximum = ledger, api_key, maximum
        self._open = ""  # the reservation of the attempt that runs
        self.attempts = 0  # that were reserved
        self._may_be_billed = 0

    def begin(self) -> None:
        """Reserve an attempt.

        Raises
        ------
        RefusalError
            413 or 429: the attempt exceeds a budget or a rate limit; 503: it cannot be counted.
        """
        attempt = secrets.token_hex(8)
        try:
            self._ledger.reserve(attempt, self._api_key, self._maximum)
        except QuotaError as error:
            never = error.seconds is None
            raise RefusalError(
                f"{error.quota}: {error.problem}",
                hint="send less, lower max_tokens, or raise the limit" if never else "wait as long as Retry-After says, or raise the limit",
                status=413 if never else 429,
                code=error.quota.replace(" ", "_"),
                seconds=error.seconds,
            ) from None
        except InstallationError as error:
            raise RefusalError("the call cannot be counted", hint="see the service's status", status=503, code="ledger") from error
        self._open, self.attempts = attempt, self.attempts + 1

    def fail(self, failure: FailedAttempt) -> None:
        """Settle a failed attempt: at its maximum if it may be billed, and as no request if it was never sent.

        Parameters
        ----------
        failure
            The failure.
        """
        self._may_be_billed += failure.may_be_billed
        pico = None if self._maximum.pico is None else self._maximum.pico * failure.may_be_billed
        self.settle(Spending(self._maximum.tokens * failure.may_be_billed, pico, int(failure.was_sent)))

    def settle(self, used: Spending | None) -> None:
        """Settle the attempt that runs, if there is one.

        Parameters
        ----------
        used
            The spending of the attempt; None for the maximum.
        """
        if self._open:
            with suppress(InstallationError):  # the reservation stays, which counts too much rather than too little
                self._ledger.settle(self._open, used)
            self._open = ""

    def make_attributes(self) -> dict[str, int]:
        """Return the attempts, and how many of them may be billed without a reply, as attributes of a span."""
        return {"mlops.attempts": self.attempts, "mlops.may_be_billed": self._may_be_billed + bool(self._open)}
