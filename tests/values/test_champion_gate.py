"""The gate of a retraining says whether a candidate is significantly better or worse than the champion, and by which figures."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.values.gates.champion_gate import ChampionGate, Rule


@dataclass
class FixedIntervals:
    """Intervals of which the difference is given."""

    low: float
    high: float

    def difference(self, metric: str, confidence: float, within: Any = None) -> tuple[float, float]:  # noqa: ARG002
        return self.low, self.high


def candidate(low: float, high: float) -> ml.Candidate:
    rows = pl.DataFrame({"x": [0.0, 1.0]})
    own, champion = (ml.types.Evaluation(2, (("roc_auc", value),)) for value in (0.75, 0.7))
    return ml.Candidate("late", "0f82", None, ml.Split(rows, np.array([0, 1]), rows), own, champion, FixedIntervals(low, high))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "low", "high", "passed", "found"),
    [
        ("better", 0.01, 0.09, True, "significantly better"),
        ("better", -0.01, 0.09, False, "not significantly better"),
        ("not_worse", -0.01, 0.09, True, "not significantly worse"),
        ("not_worse", -0.09, -0.01, False, "significantly worse"),
    ],
)
def test_the_reason_says_what_was_found(rule: Rule, low: float, high: float, passed: bool, found: str) -> None:
    result = ChampionGate("roc_auc", rule).judge(candidate(low, high))

    compared = f"0.75 against the champion's 0.7 on the same rows; 90 % interval of the difference {low} to {high}"
    assert (result.passed, result.reason) == (passed, f"{found} ({compared})")


def test_without_an_interval_the_difference_decides() -> None:
    result = ChampionGate("roc_auc", "better").judge(candidate(math.nan, math.nan))

    assert (result.passed, result.reason) == (
        True,
        "better (0.75 against the champion's 0.7 on the same rows; no interval of the difference)",
    )
