"""What both trackers are given; nothing but numpy, because both environments run it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

PARAMS = {f"p{i}": i for i in range(20)}
METRICS, STEPS = [f"m{i}" for i in range(50)], 100
CURVES = {name: np.random.default_rng(i).random(STEPS).tolist() for i, name in enumerate(METRICS)}
RUNS = 10_000
PROCESSES = 8
EACH = 5  # runs that each warm process logs


def values(run: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the parameters and metrics of one of the many runs that are searched."""
    rng = np.random.default_rng(run)
    return {f"p{i}": int(rng.integers(0, 50)) for i in range(5)}, {f"m{i}": float(rng.random()) for i in range(5)}


def timed(times: int, do: Callable[[], object]) -> dict[str, Any]:
    """Return the median of the seconds that something takes."""
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        do()
        spent.append(time.perf_counter() - begun)
    return {"seconds": median(spent)}
