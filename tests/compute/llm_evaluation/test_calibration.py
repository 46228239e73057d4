"""A judge gates only where human labels prove that it can."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from mlops_assets.compute.llm_evaluation.agreement import Rate, measure_kappa
from mlops_assets.compute.llm_evaluation.calibration import (
    JudgeCalibration,
    JudgedCase,
    calibrate_judge,
)
from mlops_assets.compute.llm_evaluation.position_bias import SwappedPair, measure_position_bias
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.values.llm.judge import FAILURES

LABELS = ("yes", "no", "unclear")


def judge_cases(pairs: list[tuple[str, str]]) -> list[JudgedCase]:
    return [JudgedCase(str(number), label, (verdict,)) for number, (label, verdict) in enumerate(pairs)]


def calibrate(*counts: tuple[str, str, int], allowed: tuple[str, ...] = ("yes", "no")) -> JudgeCalibration:
    pairs = [(label, verdict) for label, verdict, count in counts for _ in range(count)]
    return calibrate_judge(judge_cases(pairs), allowed, positive="yes")


PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, *FAILURES])), min_size=1, max_size=60)


@settings(deadline=None)
@given(PAIRS)
def test_kappa_is_that_of_scikit_learn_with_each_failure_as_a_disagreement(pairs: list[tuple[str, str]]) -> None:
    found = calibrate_judge(judge_cases(pairs), LABELS, positive="yes")
    human, judge = zip(*pairs, strict=True)
    if len({*human, *judge}) == 1:
        assert (found.kappa, found.low, found.high) == (None, None, None)
        return
    assert found.kappa == pytest.approx(cohen_kappa_score(human, judge), abs=1e-12)
    assert -1 <= found.low <= found.kappa + 1e-12
    assert found.kappa <= found.high + 1e-12 <= 1 + 1e-9


@settings(deadline=None)
@given(PAIRS)
def test_every_case_stays_in_every_count(pairs: list[tuple[str, str]]) -> None:
    found = calibrate_judge(judge_cases(pairs), LABELS, positive="yes")
    table = Counter(pairs)
    assert found.cases == found.agreement.trials == found.true_positive.trials + found.true_negative.trials == len(pairs)
    assert dict(found.labels) == {label: sum(label == human for human, _ in pairs) for label in LABELS}
    assert found.errors.count == sum(verdict in FAILURES for _, verdict in pairs)
    assert found.agreement.count == sum(table[label, label] for label in LABELS)
    assert found.true_positive.count == table["yes", "yes"]
    assert found.true_negative.count == sum(table[one, other] for one, other in itertools.product(("no", "unclear"), repeat=2))


@settings(deadline=None)
@given(PAIRS, st.data())
def test_a_failure_in_place_of_the_right_verdict_never_helps(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(pairs) - 1))
    right = [(label, label if number == place else verdict) for number, (label, verdict) in enumerate(pairs)]
    failed = [(label, "timeout" if number == place else verdict) for number, (label, verdict) in enumerate(right)]
    before, after = (calibrate_judge(judge_cases(one), LABELS, positive="yes") for one in (right, failed))
    assert after.agreement.count == before.agreement.count - 1
    assert after.errors.count == before.errors.count + 1
    if before.kappa is not None and before.kappa >= 0:  # a failure may bring a judge that is worse than chance nearer to chance
        assert after.kappa <= before.kappa + 1e-12


@pytest.mark.parametrize(
    ("table", "kappa", "error"),
    [
        # The diagnoses of 100 patients in Fleiss, Statistical Methods for Rates and Proportions: kappa 0.676, standard error 0.088.
        ([[75, 1, 4], [5, 4, 1], [0, 0, 10]], 0.6764706, 0.0877030),
        # By hand: agreement 0.7, by chance 0.5; error as in statsmodels.
        ([[20, 5], [10, 15]], 0.4, 0.1269961),
        ([[0, 9, 1], [3, 4, 20], [8, 1, 0]], -0.3425990, 0.0566186),
    ],
)
def test_the_interval_of_kappa_is_asymptotic_and_at_its_ends_not_narrower_than_wilsons(table, kappa, error) -> None:
    table = np.array(table)
    found, low, high = measure_kappa(table)
    chance = table.sum(axis=1) @ table.sum(axis=0) / table.sum() ** 2
    agreement = stats.binomtest(int(np.trace(table)), int(table.sum())).proportion_ci(method="wilson")
    z = stats.norm.ppf(0.975)
    assert found == pytest.approx(kappa, abs=1e-7)
    assert low == pytest.approx(min(kappa - z * error, (agreement.low - chance) / (1 - chance)), abs=1e-6)
    assert high == pytest.approx(max(kappa + z * error, (agreement.high - chance) / (1 - chance)), abs=1e-6)


def test_a_judge_that_is_always_right_has_an_interval_that_narrows_with_cases() -> None:
    lows = [calibrate(("yes", "yes", n), ("no", "no", n)).low for n in (2, 10, 50, 500)]
    assert lows == sorted(lows)
    assert lows[0] < 0.1
    assert 0.99 < lows[-1] < 1


@pytest.mark.parametrize("cells", [[0.45, 0.05, 0.05, 0.45], [0.4, 0.1, 0.2, 0.3], [0.8, 0.05, 0.05, 0.1], [0.25] * 4])
def test_the_interval_of_kappa_covers_the_truth(cells: list[float]) -> None:
    truth, _, _ = measure_kappa((np.array(cells) * 10_000).round().astype(int).reshape(2, 2))
    tables = np.random.default_rng(3).multinomial(50, cells, size=1000).reshape(-1, 2, 2)
    found = [measure_kappa(table) for table in tables]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.93


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_of_a_rate_is_wilsons(count: int, others: int, confidence: float) -> None:
    rate = Rate(count, count + others, confidence)
    if not rate.trials:
        assert (rate.value, rate.low, rate.high) == (None, 0, 1)
        return
    known = stats.binomtest(count, rate.trials).proportion_ci(confidence, method="wilson")
    assert (rate.low, rate.high) == (pytest.approx(known.low, abs=1e-9), pytest.approx(known.high, abs=1e-9))
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_a_share_that_is_none_is_no_rate() -> None:
    for count, trials, confidence in [(2, 1, 0.95), (-1, 1, 0.95), (0, 1, 1.0), (0, 1, math.nan)]:
        with pytest.raises(ValueError, match="is not a rate|not between"):
            Rate(count, trials, confidence)


def test_the_constant_predictor_of_the_majority_is_the_baseline_and_may_not_gate() -> None:
    found = calibrate(("yes", "yes", 55), ("yes", "no", 5), ("no", "yes", 4), ("no", "no", 36))
    baseline = found.baseline
    assert (baseline.kappa, baseline.agreement.value, baseline.true_positive.value, baseline.true_negative.value) == (0.0, 0.6, 1.0, 0.0)
    assert (found.true_positive.value, found.true_negative.value) == (55 / 60, 0.9)
    assert found.may_gate(0.6).passed
    assert not baseline.may_gate(0.001).passed


def test_the_lower_end_of_kappa_decides() -> None:
    few, many = (calibrate(("yes", "yes", 9 * n), ("yes", "no", n), ("no", "yes", n), ("no", "no", 9 * n)) for n in (2, 40))
    assert few.kappa == many.kappa == pytest.approx(0.8)
    refused, passed = few.may_gate(0.7), many.may_gate(0.7)
    assert (refused.passed, passed.passed) == (False, True)
    assert refused.reason.startswith("kappa 0.80 (95 % CI 0.5")
    assert "its lower end is below 0.7; the judge agrees on 90 % of cases, a constant one on 50 %" in refused.reason
    assert "its lower end reaches 0.7" in passed.reason
    assert (passed.value, passed.threshold, passed.low, passed.high) == (many.kappa, 0.7, many.low, many.high)


PERFECT = [("yes", "yes", 30), ("no", "no", 30)]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (calibrate(("yes", "yes", 14), ("no", "no", 15)), "29 labelled cases are too few: 30 are needed"),
        (calibrate(("yes", "yes", 100), ("no", "no", 4)), "too few cases of some verdicts: 4 of 'no'; 5 of each are needed"),
        (calibrate(("yes", "yes", 100)), "too few cases of some verdicts: 0 of 'no'"),
        (calibrate(*PERFECT, allowed=LABELS), "0 of 'unclear'"),
        (calibrate(*PERFECT, ("yes", "timeout", 2), ("no", "unparsable", 2)), "4 of 64 calls gave no verdict; at most 5 % may give none"),
        (calibrate(*[("yes", failure, 20) for failure in FAILURES], ("no", "error", 60)), "120 of 120 calls gave no verdict"),
        (calibrate(), "0 labelled cases are too few"),
    ],
)
def test_too_little_evidence_is_refused_however_good_the_judge_is(found: JudgeCalibration, reason: str) -> None:
    result = found.may_gate(0.1)
    assert not result.passed
    assert reason in result.reason


@pytest.mark.parametrize("found", [calibrate(), calibrate(("yes", "yes", 100))])
def test_limits_of_zero_still_need_a_case_of_each_verdict(found: JudgeCalibration) -> None:
    assert not found.may_gate(0.1, min_cases=0, min_cases_per_label=0).passed


def test_a_limit_of_errors_that_is_nan_refuses() -> None:
    assert calibrate(*PERFECT).may_gate(0.1).passed
    assert not calibrate(*PERFECT).may_gate(0.1, max_error_rate=math.nan).passed


def test_a_judge_that_calls_wrong_answers_supported_is_refused() -> None:
    """As the embedded model does: 35 of 36 wrong answers are supported."""
    found = calibrate(("yes", "yes", 23), ("yes", "no", 1), ("no", "yes", 35), ("no", "no", 1))
    assert abs(found.kappa) < 0.05
    assert not found.may_gate(0.4).passed


@pytest.mark.parametrize("min_kappa", [0, -0.1, 1.1, math.nan])
def test_a_minimum_that_a_constant_judge_reaches_is_refused(min_kappa: float) -> None:
    with pytest.raises(DefinitionError, match="min_kappa"):
        calibrate(*PERFECT).may_gate(min_kappa)


@pytest.mark.parametrize(
    ("verdicts", "flips"),
    [
        ([("yes", "yes", "yes")], 0.0),
        ([("yes", "yes", "no")], 2 / 3),
        ([("yes", "no"), ("no", "no"), ("yes",), ()], 0.5),
        ([("error", "error")], 1.0),
        ([("yes", "timeout")], 1.0),
        ([("yes",), ()], None),
    ],
)
def test_the_flip_rate_is_the_share_of_repeats_that_differ(verdicts: list[tuple[str, ...]], flips: float | None) -> None:
    cases = [JudgedCase(str(number), "yes", given) for number, given in enumerate(verdicts)]
    found = calibrate_judge(cases, ("yes", "no"), positive="yes")
    assert found.flip_rate == (None if flips is None else pytest.approx(flips))
    assert found.errors.trials == sum(max(len(given), 1) for given in verdicts)


def test_a_case_without_a_verdict_is_an_error() -> None:
    found = calibrate_judge([JudgedCase("a", "yes", ())], ("yes", "no"), positive="yes")
    assert (found.errors.count, found.agreement.count, found.true_positive.count) == (1, 0, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(["first", "second", "tie", *FAILURES])] * 2), min_size=1, max_size=30))
def test_renaming_the_positions_negates_the_preference_and_nothing_else(pairs: list[tuple[str, str]]) -> None:
    names = {"first": "second", "second": "first"}
    found, mirrored = (
        measure_position_bias([SwappedPair(str(n), *(of.get(v, v) for v in pair)) for n, pair in enumerate(pairs)]) for of in ({}, names)
    )
    assert mirrored.preference == -found.preference
    assert (mirrored.consistency, mirrored.errors) == (found.consistency, found.errors)
    assert found.consistency.trials * 2 == found.errors.trials == 2 * len(pairs)


@pytest.mark.parametrize(
    ("original", "swapped", "consistency", "preference", "errors"),
    [
        ("first", "second", 1, 0, 0),
        ("second", "first", 1, 0, 0),
        ("tie", "tie", 1, 0, 0),
        ("first", "first", 0, 1, 0),
        ("second", "second", 0, -1, 0),
        ("first", "tie", 0, 0.5, 0),
        ("first", "timeout", 0, 0.5, 1),
        ("error", "error", 0, 0, 2),
    ],
)
def test_a_judge_that_prefers_a_position_shows_it(original, swapped, consistency, preference, errors) -> None:
    found = measure_position_bias([SwappedPair("a", original, swapped)])
    assert (found.consistency.count, found.preference, found.errors.count) == (consistency, preference, errors)


def test_no_pairs_have_no_preference() -> None:
    assert measure_position_bias([]).preference is None


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([JudgedCase("a", "yes", ("maybe",))], "the case 'a' has the verdict 'maybe'"),
        ([JudgedCase("a", "error", ("yes",))], "the case 'a' has the verdict 'error'"),
        ([JudgedCase("a", "yes", ("yes",)), JudgedCase("a", "no", ("no",))], "the case 'a' occurs more than once"),
    ],
)
def test_cases_that_cannot_be_counted_are_named(cases: list[JudgedCase], message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibrate_judge(cases, ("yes", "no"), positive="yes")


def test_pairs_and_positives_that_are_unknown_are_named() -> None:
    with pytest.raises(DataError, match="'yes'"):
        measure_position_bias([SwappedPair("a", "first", "yes")])
    with pytest.raises(DataError, match="more than once"):
        measure_position_bias([SwappedPair("a", "first", "tie")] * 2)
    with pytest.raises(DefinitionError, match="none of the judge's"):
        calibrate_judge([], ("yes", "no"), positive="Yes")
