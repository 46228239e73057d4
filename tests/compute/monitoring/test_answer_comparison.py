"""A version that is bad in part is found by its difference from the version before, and chance alone finds nothing."""

import numpy as np
import pytest

from mlops_assets.compute.monitoring.answer_comparison import compare_measures, find_difference_interval
from mlops_assets.compute.monitoring.answer_quality import MeasuredValues
from mlops_assets.errors import DefinitionError
from mlops_assets.values.llm.quality_monitor import QualityExpectation, QualityMonitor
from mlops_assets.values.llm.trace_source import TraceSource

ANSWERS = 60


def draw_scores(generator: np.random.Generator, bad: float, count: int = ANSWERS) -> MeasuredValues:
    """Return scores of answers of which a share is bad: near 1 for good ones, near 0 for the others."""
    wrong = generator.random(count) < bad
    return MeasuredValues("groundedness", tuple(np.where(wrong, generator.beta(2, 8, count), generator.beta(20, 2, count))))


def draw_failures(generator: np.random.Generator, share: float, count: int = ANSWERS) -> MeasuredValues:
    return MeasuredValues("error_rate", tuple((generator.random(count) < share).astype(float)))


def count_breaches(measure: str, draw, before: float, current: float, margin: float, windows: int = 500) -> int:
    generator, expectation = np.random.default_rng(0), QualityExpectation(measure, no_worse_than_before_by=margin)
    pairs = ((draw(generator, current), draw(generator, before)) for _ in range(windows))
    return sum(compare_measures(expectation, *pair).state == "breach" for pair in pairs)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
def test_equal_versions_seldom_alarm_even_without_a_margin(share) -> None:
    assert count_breaches("groundedness", draw_scores, share, share, margin=0.0) <= 8  # 0.5 % of the windows are 2.5
    assert count_breaches("error_rate", draw_failures, share, share, margin=0.0) <= 8


@pytest.mark.parametrize(("before", "current"), [(0.1, 0.2), (0.0, 0.1)])
def test_a_difference_as_large_as_the_margin_seldom_alarms(before, current) -> None:
    assert count_breaches("error_rate", draw_failures, before, current, margin=0.1) <= 8
    assert count_breaches("groundedness", draw_scores, before, current, margin=0.1 * 0.71) <= 8  # 0.71 = 20/22 minus 2/10


@pytest.mark.parametrize(("now", "before"), [(1000, 30), (1000, 50), (30, 1000), (50, 30)])
@pytest.mark.parametrize("bad", [0.002, 0.01, 0.1])
def test_equal_versions_of_which_one_has_few_answers_seldom_alarm(bad, now, before) -> None:
    generator, breaches = np.random.default_rng(2), {"thumbs": 0, "zeros": 0, "low": 0}
    for _ in range(400):
        for kind in breaches:
            wrong = [generator.random(count) < bad for count in (now, before)]
            good, worst = (0.99 if kind == "zeros" else 1.0), (0.6 if kind == "low" else 0.0)  # 0.99: scores, not shares
            pair = [MeasuredValues("feedback", tuple(np.where(each, generator.uniform(0, worst, len(each)), good))) for each in wrong]
            breaches[kind] += compare_measures(QualityExpectation("feedback", no_worse_than_before_by=0.0), *pair).state == "breach"
    assert max(breaches.values()) <= 8, breaches  # 0.5 % of the windows are 2


def test_thumbs_of_users_are_shares() -> None:
    thumbs = [((1.0,) * 27 + (0.0,) * 3, (1.0,) * 30), ((1.0,) * 30, (1.0,) * 30)]
    for pair in thumbs:
        intervals = [
            find_difference_interval(*(MeasuredValues(measure, values) for values in pair), 0.99) for measure in ("feedback", "error_rate")
        ]
        assert intervals[0] == intervals[1]


def test_a_release_of_which_half_of_the_answers_are_bad_is_found_in_its_first_window() -> None:
    assert count_breaches("groundedness", draw_scores, 0.05, 0.5, margin=0.05) >= 485
    assert count_breaches("error_rate", draw_failures, 0.05, 0.5, margin=0.05) >= 495
    assert count_breaches("groundedness", draw_scores, 0.5, 0.05, margin=0.0) == 0, "a better version is no breach"


def test_the_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    generator, inside = np.random.default_rng(1), 0
    for _ in range(1000):
        low, high = find_difference_interval(draw_failures(generator, 0.3, 80), draw_failures(generator, 0.1, 40), 0.95)
        inside += low <= 0.2 <= high
    assert 930 <= inside <= 980


def test_the_reason_shows_both_versions_and_few_answers_decide_nothing() -> None:
    expectation = QualityExpectation("groundedness", no_worse_than_before_by=0.05)
    now, before = (MeasuredValues("groundedness", (low, high) * 20) for low, high in ((0.4, 0.6), (0.8, 1.0)))
    verdict = compare_measures(expectation, now, before)
    assert verdict.state == "breach"
    assert "groundedness 0.5, 0.9 of the version before: worse by 0.4 (99 % CI 0.3" in verdict.reason
    few = compare_measures(expectation, now, MeasuredValues("groundedness", (0.9,) * 29))
    assert (few.state, few.reason.partition(";")[0]) == (
        "not enough data",
        "40 measured answers, and 29 of the version before in its last days",
    )
    assert compare_measures(expectation, now, MeasuredValues("groundedness", problem="no trace")).state == "cannot be measured"


@pytest.mark.parametrize(("measure", "margin"), [("latency_p95", 0.1), ("input_drift", 0.1), ("support", 0.1), ("groundedness", -0.1)])
def test_a_measure_that_cannot_be_compared_is_refused(measure, margin) -> None:
    with pytest.raises(DefinitionError, match="no_worse_than_before_by"):
        QualityExpectation(measure, no_worse_than_before_by=margin)


def test_a_comparison_of_versions_needs_a_prompt() -> None:
    expectation = QualityExpectation("error_rate", no_worse_than_before_by=0.1)
    with pytest.raises(DefinitionError, match="compares versions, but prompt= is not set"):
        QualityMonitor("watch", of=TraceSource("bot"), expectations=expectation)
