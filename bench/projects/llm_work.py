"""What contenders of ``bench llm_calls`` share: nothing but the standard library, because peers' environments import it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

CASES, CONCURRENCY, ANSWER_SECONDS = 400, 8, 0.15  # of the evaluation that is killed, and seconds of its endpoint
PARAMETERS = {"model": "instant", "temperature": 0.0, "max_tokens": 64}
ATTRIBUTES: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "instant",
    "gen_ai.response.finish_reason": "stop",
    "gen_ai.usage.input_tokens": 40,
    "gen_ai.usage.output_tokens": 1,
    "mlops.cost": 0.00042,
    "mlops.input": "Which airport is the latest? " * 20,
    "mlops.output": "EWR, by 15 minutes.",
}


def time_calls(times: int, call: Callable[[], object]) -> dict[str, Any]:
    """Return the median of the seconds that a call takes."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return {"seconds": median(seconds)}


def time_loop(times: int, call: Callable[[], object]) -> dict[str, Any]:
    """Return the mean of the seconds that a call takes: of calls too short for a clock of their own."""
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return {"seconds": (time.perf_counter() - begun) / times}
