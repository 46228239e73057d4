"""Labels that look inverted hold every retraining, until they are corrected or a person trains."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import mannwhitneyu

from mlops_assets.compute.monitoring.decide import decide, next_action
from mlops_assets.compute.monitoring.inverted_labels import MIN_CLASS_ROWS, compute_low_score_p_value
from mlops_assets.compute.monitoring.performance import measure_performance
from mlops_assets.values.decisions import PROMOTED, Training
from mlops_assets.values.monitoring import BREACH, GOOD, INVERTED, Performance
from tests.compute.monitoring.test_decide import days, end, facts, launch, made, report, whole_reason

WHY = "the labels of 2013-01-04 look inverted: correct them, or train by hand if they are right"


@pytest.mark.parametrize("states", ["gggi", "gbbi", "bbbi", "ggii"])
def test_a_window_of_inverted_labels_opens_no_decision(states: str) -> None:
    assert whole_reason(decide(facts(states))).startswith(WHY)


def test_a_decision_that_is_open_starts_no_training_on_inverted_labels() -> None:
    decision = made(decide(facts("ggb")))
    before = facts("ggb", decisions=(decision,))
    assert launch(next_action(before, end(3))).decision == decision
    after = replace(before, reports=days("ggbi"))
    assert whole_reason(next_action(after, end(4))) == f"{WHY}; this holds decision {decision.id} about 2013-01-03"


def test_corrected_labels_end_the_hold() -> None:
    inverted = days("ggbi")
    for state in (GOOD, BREACH):
        corrected = facts("", reports=(*inverted, replace(report(4, state), recorded=1)))
        assert "look inverted" not in str(decide(corrected))
    assert made(decide(facts("", reports=(*inverted, replace(report(4, BREACH), recorded=1))))).evidence == ("2013-01-03", "2013-01-04")


def test_a_training_by_hand_ends_the_hold_and_so_does_another_version() -> None:
    trained = facts("", reports=(*days("gggi"), report(5, BREACH)), trainings=(Training("run", end(4), PROMOTED),))
    assert made(decide(trained)).evidence == ("2013-01-05",)
    other = facts("", reports=(*days("gggi", version=5), report(5, BREACH)))
    assert made(decide(other)).version == 6
    assert INVERTED in {r.state for r in other.reports}


def is_inverted(scores: np.ndarray, y: np.ndarray) -> bool:
    rows = pl.DataFrame({"id": np.arange(len(y)), "__prediction": (scores > 0.5).astype(int), "__probability": scores})
    labels, bound = pl.DataFrame({"id": np.arange(len(y)), "y": y}), Performance("roc_auc", at_least=0.6, min_labels=20)
    return measure_performance(rows, labels, key=["id"], label="y", metrics=[], expectations=[bound], classes=[0, 1]).inverted


@pytest.mark.parametrize(("rows", "positives"), [(200, 2), (300, 4), (60, 10), (200, 20)])
def test_random_scores_with_few_rows_of_a_class_do_not_look_inverted(rows: int, positives: int) -> None:
    rng = np.random.default_rng(positives)
    y = (np.arange(rows) < positives).astype(int)
    assert sum(is_inverted(rng.random(rows), y) for _ in range(150)) <= 1


def test_few_rows_of_a_class_that_all_score_low_look_inverted_from_a_minimum_on() -> None:
    rng = np.random.default_rng(0)
    for positives in (MIN_CLASS_ROWS - 1, MIN_CLASS_ROWS):
        y = (np.arange(300) < positives).astype(int)
        scores = np.where(y == 1, 0.1, 0.6) * rng.random(300)
        assert is_inverted(scores, y) == (positives == MIN_CLASS_ROWS)


@pytest.mark.parametrize("steps", [3, 10_000])
def test_the_chance_of_low_scores_is_that_of_scipys_test_with_ties(steps: int) -> None:
    rng = np.random.default_rng(1)
    scores, chosen = rng.integers(0, steps, 120) / steps, np.arange(120) < 15
    oracle = mannwhitneyu(scores[chosen], scores[~chosen], alternative="less", method="asymptotic").pvalue
    assert compute_low_score_p_value(scores, chosen) == pytest.approx(oracle)
    assert compute_low_score_p_value(np.ones(120), chosen) == 1.0
