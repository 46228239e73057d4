"""Log the progress of many calls of language models."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.orchestrate.llm.call_costs import Spend, price_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.compute.llm_evaluation.prices import PriceTable
    from mlops_assets.serving.llm.ask_many import CallRecord

PROGRESS_CALLS, PROGRESS_SECONDS = 100, 10.0  # a line in the log after so many calls, or so much time


@dataclass
class CallProgress:
    """Logs the progress of many calls: after each :data:`PROGRESS_CALLS` calls, after :data:`PROGRESS_SECONDS`, and at the end.

    Parameters
    ----------
    key, total
        The asset that makes the calls, and their number.
    log
        A function that receives the lines.
    unit
        The plural noun for the results of calls, such as ``verdicts``.
    prices
        The prices of models; None shows no cost.
    """

    key: str
    total: int
    log: Callable[[str], object]
    unit: str = "cases"
    prices: PriceTable | None = None
    done: int = 0
    errors: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent: Spend = field(default_factory=Spend)
    _logged_at: float = field(default_factory=time.monotonic)

    def add(self, call: CallRecord, *, failed: bool) -> None:
        """Count a call, and log a line when one is due.

        Parameters
        ----------
        call
            The call.
        failed
            Whether it has an error.
        """
        completion = call.completion
        self.done += 1
        self.errors += failed
        self.requests += call.attempts
        if self.prices is not None:
            self.spent += price_requests(self.prices, call)
        if completion is not None and not completion.cached:
            self.input_tokens += completion.prompt_tokens or 0
            self.output_tokens += completion.completion_tokens or 0
        if self.done == self.total or self.done % PROGRESS_CALLS == 0 or time.monotonic() - self._logged_at >= PROGRESS_SECONDS:
            self._logged_at = time.monotonic()
            self.log(
                f"{self.key}: {self.done} of {self.total} {self.unit}, {self.errors} with an error; {self.requests} requests, "
                f"{self.input_tokens} input and {self.output_tokens} output tokens{'' if self.prices is None else f', {self.spent}'} so far"
            )
