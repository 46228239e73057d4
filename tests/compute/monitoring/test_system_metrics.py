"""Quantiles, rates and error budgets of requests."""

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.compute.monitoring.system_metrics import SystemCounts, evaluate_objective
from mlops_assets.values.monitoring import BREACH, GOOD, NOT_ENOUGH

mon = ml.monitoring
MONTH = 30 * 86_400.0


def requests(answered: int, failed: int = 0, refused: int = 0, **more) -> SystemCounts:
    return SystemCounts({200: answered, 500: failed, 422: refused}, {0.01: answered}, **more)


@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.5, 3.0]), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99]))
def test_quantiles_are_those_of_numpy(seconds, share) -> None:
    counts = SystemCounts.merge(SystemCounts({200: 1}, {value: 1}) for value in seconds)
    assert counts.quantile(share) == np.quantile(seconds, share, method="inverted_cdf")
    assert counts.requests == len(seconds)


def test_an_error_rate_counts_failed_requests_of_all() -> None:
    verdict = evaluate_objective(mon.ErrorRate(at_most=0.01), requests(960, 20, 20), requests(9_960, 20, 20))
    assert (verdict.state, verdict.value, verdict.bound) == (BREACH, 0.02, 0.01)
    assert verdict.budget_used == pytest.approx(0.2)
    # At twice the allowed rate, the remaining 80 % last for 40 % of the period.
    assert verdict.seconds_left == pytest.approx(0.4 * MONTH)
    assert verdict.reason == "error_rate 0.0200 > 0.0100; 20% of the error budget is used up; at this rate it lasts 12.0 days"


def test_refused_requests_are_no_errors() -> None:
    verdict = evaluate_objective(mon.ErrorRate(at_most=0.01), requests(500, 0, 500), requests(500, 0, 500))
    assert (verdict.state, verdict.value, verdict.budget_used, verdict.seconds_left) == (GOOD, 0.0, 0.0, None)


def test_an_exhausted_budget_is_named() -> None:
    verdict = evaluate_objective(mon.ErrorRate(at_most=0.01), requests(900, 100), requests(9_000, 300))
    assert verdict.seconds_left == 0.0
    assert "the error budget is exhausted: 323% used up" in verdict.reason


def test_a_latency_has_the_budget_that_its_quantile_leaves() -> None:
    slow = SystemCounts({200: 1_000}, {0.01: 900, 0.2: 100})
    verdict = evaluate_objective(mon.Latency(p95=0.05), slow, slow)
    assert (verdict.state, verdict.value) == (BREACH, 0.2)
    assert verdict.budget_used == pytest.approx(100 / (0.05 * 1_000))
    assert evaluate_objective(mon.Latency(p50=0.05), slow, slow).state == GOOD


def test_missing_features_are_a_share_of_the_values_that_were_looked_up() -> None:
    counts = requests(200, looked_up=1_000, missing=50)
    verdict = evaluate_objective(mon.MissingFeatures(at_most=0.02, period=timedelta(days=1)), counts, counts)
    assert (verdict.state, verdict.value) == (BREACH, 0.05)
    assert verdict.budget_used == pytest.approx(2.5)
    nothing = evaluate_objective(mon.MissingFeatures(at_most=0.02), requests(200), requests(200))
    assert (nothing.state, nothing.value, nothing.reason) == (NOT_ENOUGH, None, "nothing to measure")


def test_a_window_with_few_requests_is_not_judged() -> None:
    verdict = evaluate_objective(mon.ErrorRate(at_most=0.01), requests(10, 89), requests(100_000, 89))
    assert (verdict.state, verdict.reason) == (NOT_ENOUGH, "99 requests, fewer than 100")
    assert verdict.budget_used == pytest.approx(89 / (0.01 * 100_089))


def test_a_service_that_always_fails_at_low_traffic_breaches_once_its_period_has_enough_requests() -> None:
    window = requests(0, 99)
    verdict = evaluate_objective(mon.ErrorRate(at_most=0.001), window, requests(0, 99 * 24))
    assert (verdict.state, verdict.value) == (BREACH, 1.0)
    assert "the error budget is exhausted" in verdict.reason
    assert evaluate_objective(mon.ErrorRate(at_most=0.001), window, window).state == NOT_ENOUGH
    clean = evaluate_objective(mon.ErrorRate(at_most=0.001), requests(99), requests(99, 99 * 24))
    assert clean.state == NOT_ENOUGH, "a window without an error is no breach"


@pytest.mark.parametrize("objective", [mon.Latency(p95=0.1), mon.MissingFeatures(at_most=0.1)])
def test_refused_requests_do_not_make_one_answer_enough(objective) -> None:
    counts = SystemCounts({200: 1, 422: 5_000}, {5.0: 1}, rows=1, looked_up=1, missing=1)
    verdict = evaluate_objective(objective, counts, counts)
    assert (verdict.state, verdict.reason) == (NOT_ENOUGH, "1 answered requests, fewer than 100")


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 50_000), st.floats(1e-4, 0.5))
def test_time_left_is_never_negative_or_more_than_the_budget_allows(answered, failed, earlier, allowed) -> None:
    window, period = requests(answered, failed), requests(answered + earlier, failed)
    verdict = evaluate_objective(mon.ErrorRate(at_most=allowed), window, period)
    if verdict.seconds_left is not None:
        assert 0 <= verdict.seconds_left < math.inf
        rate = failed / (allowed * window.requests)
        assert verdict.budget_used + rate * verdict.seconds_left / MONTH == pytest.approx(max(1, verdict.budget_used))
