"""Policies are compared by an interval over windows that is right for correlated windows, and says nothing when it cannot."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mlops_assets.compute.replay.advice import advise
from mlops_assets.compute.replay.comparison import compare_policies, estimate_interval
from mlops_assets.compute.replay.result import PolicyResult, ReplayEvent, ReplayResult, WindowResult

START = datetime(2024, 1, 1, tzinfo=UTC)


def policy(name: str, values, trainings: int = 0) -> PolicyResult:
    windows = tuple(
        WindowResult(f"{i}", START + timedelta(days=i), START + timedelta(days=i + 1), 10, {"roc_auc": value}, (1,))
        for i, value in enumerate(values)
    )
    events = tuple(ReplayEvent(START + timedelta(days=i), "", i + 1, "", 10) for i in range(trainings + 1))
    return PolicyResult(name, windows, events)


def result(*policies: PolicyResult) -> ReplayResult:
    return ReplayResult("m", "roc_auc", START, START + timedelta(days=30), "day", policies, compare_policies(policies, "roc_auc"))


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_an_interval_of_differences_without_a_gain_excludes_zero_seldom(correlation):
    rng, wrong, trials = np.random.default_rng(1), 0, 400
    for _ in range(trials):
        noise = rng.normal(size=40)
        for i in range(1, 40):
            noise[i] += correlation * noise[i - 1]
        low, high = estimate_interval(noise)
        wrong += not low <= 0 <= high
    # 5 % are stated; blocks of three windows cannot see all of a strong correlation.
    assert wrong / trials <= (0.08 if correlation == 0 else 0.18)


def test_an_interval_finds_a_gain_that_every_window_shows():
    low, high = estimate_interval(0.02 + np.random.default_rng(2).normal(0, 0.01, 30))
    assert 0 < low < 0.02 < high


def test_few_windows_give_no_interval():
    assert all(math.isnan(end) for end in estimate_interval(np.array([0.1, 0.2, 0.1])))
    assert estimate_interval(np.zeros(30)) == (0.0, 0.0)


def test_a_window_that_one_policy_cannot_measure_counts_for_neither():
    (found,) = compare_policies([policy("a", [0.7, math.nan, 0.7]), policy("b", [0.6, 0.1, 0.6])], "roc_auc")
    assert (found.windows, found.difference) == (2, pytest.approx(0.1))


def test_a_comparison_is_read_both_ways():
    found = result(policy("a", np.linspace(0.7, 0.72, 30)), policy("b", np.linspace(0.6, 0.63, 30)))
    one, other = found.compare("a", "b"), found.compare("b", "a")
    assert (one.low, one.high, one.difference) == (-other.high, -other.low, -other.difference)
    assert found.compare("a", "a") is None


def noisy(level: float, seed: int) -> np.ndarray:
    return level + np.random.default_rng(seed).normal(0, 0.004, 30)


def test_the_policy_with_fewest_trainings_is_advised_among_those_that_are_not_significantly_worse():
    found = advise(result(policy("never", noisy(0.6, 1)), policy("often", noisy(0.7, 2), 9), policy("seldom", noisy(0.6995, 3), 4)))
    assert (found.policy, found.significant) == ("seldom", True)


@pytest.mark.parametrize(
    ("levels", "advised"),
    [
        ({"every:30d": 0.70, "follow": 0.699, "prove": 0.68}, "follow"),
        ({"every:30d": 0.70, "follow": 0.65, "prove": 0.699}, "prove"),
        ({"every:30d": 0.70, "follow": 0.65, "prove": 0.64}, "every:30d"),
        ({"every:30d": 0.601, "follow": 0.60, "prove": 0.60}, "prove"),
    ],
)
def test_a_grid_advises_follow_where_it_keeps_the_gain_and_prove_where_none_is_shown(levels, advised):
    policies = [policy(name, noisy(level, seed), 5) for seed, (name, level) in enumerate(levels.items(), 2)]
    assert advise(result(policy("never", noisy(0.6, 1)), *policies)).policy == advised


def test_a_policy_that_loses_a_tenth_of_the_gain_is_not_advised_because_windows_are_few():
    never, every, follow, prove = (
        policy(name, np.array(levels), 5)
        for name, levels in (
            ("never", [0.60, 0.61, 0.60, 0.61, 0.60, 0.61, 0.60, 0.61]),
            ("every:30d", [0.70, 0.71, 0.66, 0.75, 0.70, 0.65, 0.76, 0.71]),
            ("follow", [0.69, 0.70, 0.70, 0.69, 0.71, 0.66, 0.72, 0.69]),
            ("prove", [0.62, 0.63, 0.62, 0.63, 0.62, 0.63, 0.62, 0.63]),
        )
    )
    found = result(never, every, follow, prove)
    assert found.compare("follow", "every:30d").high > 0, "the difference may be chance"
    assert advise(found).policy == "every:30d"


def test_an_advised_gain_that_only_the_narrower_interval_shows_is_called_so():
    months = {  # of the flights of 2013, April to December
        "never": [0.682, 0.732, 0.714, 0.706, 0.677, 0.675, 0.671, 0.675, 0.735],
        "grow": [0.696, 0.758, 0.753, 0.760, 0.721, 0.727, 0.701, 0.684, 0.724],
        "follow": [0.682, 0.755, 0.760, 0.754, 0.721, 0.720, 0.687, 0.687, 0.725],
        "prove": [0.682, 0.756, 0.740, 0.732, 0.718, 0.720, 0.689, 0.680, 0.722],
    }
    found = advise(result(*(policy(name, np.array(levels), 7) for name, levels in months.items())))
    assert (found.policy, found.significant) == ("grow", False)
    assert "better at 90 % confidence than never" in found.text


def test_a_policy_with_a_shown_gain_is_advised_where_a_noisy_one_has_a_higher_mean():
    noise = np.random.default_rng(5).normal(0, 0.25, 30)
    never, follow = policy("never", noisy(0.6, 1)), policy("follow", noisy(0.62, 2), 5)
    often, prove = policy("every:13d", 0.65 + noise - noise.mean(), 8), policy("prove", noisy(0.601, 3), 5)
    assert advise(result(never, often, follow, prove)).policy == "follow"


def test_a_replay_without_a_version_says_why():
    empty = tuple(replace(window, rows=0) for window in policy("x", [math.nan] * 8).windows)
    failed = PolicyResult("never", empty, (ReplayEvent(START, "first", None, "no row is known"),))
    found = advise(result(failed, PolicyResult("other", empty)))
    assert (found.policy, found.text) == ("", "no version was trained: no row is known")


def test_a_metric_that_no_window_defines_is_named():
    found = advise(result(policy("never", [math.nan] * 8), policy("other", [math.nan] * 8)))
    assert "roc_auc is undefined in every window" in found.text


def test_policies_are_compared_in_the_windows_that_all_of_them_measure():
    early = policy("never", [0.5] * 10 + [0.9] * 10)
    late = policy("loop", [math.nan] * 10 + [0.89] * 10)
    assert advise(result(early, late)).policy == "never"


def test_the_first_policy_is_not_compared_with_itself():
    found = advise(result(policy("never", noisy(0.7, 1)), policy("often", noisy(0.6, 2), 9)))
    assert (found.policy, "than never" in found.text) == ("never", False)


def test_a_policy_without_a_version_is_named_with_its_reason():
    failed = PolicyResult("follow", policy("x", [math.nan] * 30).windows, (ReplayEvent(START, "first", None, "the training failed"),))
    found = advise(result(policy("never", noisy(0.7, 1)), policy("often", noisy(0.6, 2), 9), failed))
    assert found.text.endswith("No other policy has a higher mean. follow could not be measured: the training failed.")


def test_few_windows_compare_nothing():
    assert advise(result(policy("never", [0.5] * 4), policy("often", [0.8] * 4, 3))).headline == "Too few windows to compare policies"
