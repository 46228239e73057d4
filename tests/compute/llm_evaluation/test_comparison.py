"""A candidate replaces production only on complete evidence: each injected fault fails the gate."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_assets.compute.llm_evaluation.comparison import compare_scores
from mlops_assets.compute.llm_evaluation.scorers import Score, score_json_schema, score_retrieval_hit, score_verdict
from mlops_assets.compute.llm_evaluation.verdicts import classify_error, parse_verdict
from mlops_assets.errors import DataError, DefinitionError

CASES = [f"case {number}" for number in range(40)]
BAD = "case 7"
POINTS = {"yes": 1.0, "no": 0.0}
Scores = dict[str, Score | float | None]


def make_evidence() -> tuple[list[str], Scores, Scores]:
    """Return evidence of a candidate that is better on each case."""
    return list(CASES), dict.fromkeys(CASES, 0.9), dict.fromkeys(CASES, 0.5)


def test_a_better_candidate_passes_without_a_fault() -> None:
    cases, candidate, production = make_evidence()
    found = compare_scores(cases, candidate, production, seed="v2").may_replace(no_worse_by=0.02)
    assert found.passed
    assert found.reason == (
        "the difference from production is +0.400 (95 % CI +0.400 to +0.400) on 40 cases: its lower end is not below −0.02"
    )
    assert (found.value, found.threshold) == (pytest.approx(0.4), -0.02)


def judge(reply: str | None) -> Score:
    return score_verdict(parse_verdict(reply, ("yes", "no")), POINTS)


# Each puts one fault into the scores of a candidate that passes without it.
FAULTS: dict[str, tuple[Callable[[Scores, Scores], object], str]] = {
    "the candidate lacks a case": (lambda mine, _: mine.pop(BAD), "1 of 40 cases have no score: case 7"),
    "production lacks a case": (lambda _, theirs: theirs.pop(BAD), "no score: case 7"),
    "a score is null": (lambda mine, _: mine.update({BAD: None}), "no score: case 7"),
    "a score of production is null": (lambda _, theirs: theirs.update({BAD: None}), "no score: case 7"),
    "no case is scored": (lambda mine, _: mine.clear(), "40 of 40 cases have no score: case 0, case 1, case 2, …"),
    "production was never scored": (lambda _, theirs: theirs.clear(), "40 of 40 cases have no score"),
    "a score is NaN": (lambda mine, _: mine.update({BAD: math.nan}), "1 of 40 cases have an invalid score: case 7"),
    "a score of production is NaN": (lambda _, theirs: theirs.update({BAD: math.nan}), "invalid score: case 7"),
    "a score is a NaN of numpy": (lambda mine, _: mine.update({BAD: np.float32("nan")}), "invalid score: case 7"),
    "a score is infinite": (lambda mine, _: mine.update({BAD: math.inf}), "invalid score: case 7"),
    "a score is above 1": (lambda mine, _: mine.update({BAD: 100}), "invalid score: case 7"),
    "a score is below 0": (lambda _, theirs: theirs.update({BAD: -1}), "invalid score: case 7"),
    "a score is text": (lambda mine, _: mine.update({BAD: "0.9"}), "invalid score: case 7"),
    "a score is a bool": (lambda mine, _: mine.update({BAD: True}), "invalid score: case 7"),
    "the judge timed out": (
        lambda mine, _: mine.update({BAD: score_verdict(classify_error(TimeoutError()), POINTS)}),
        "1 of 40 cases of the candidate have an error",
    ),
    "the judge's call was refused": (
        lambda mine, _: mine.update({BAD: score_verdict(classify_error(OSError("429")), POINTS)}),
        "candidate have an error",
    ),
    "the judge gave no verdict": (lambda mine, _: mine.update({BAD: judge("I cannot say.")}), "candidate have an error"),
    "the judge gave two verdicts": (lambda _, theirs: theirs.update({BAD: judge("verdict: yes\nverdict: no")}), "production have an error"),
    "the judge's reply is truncated": (lambda mine, _: mine.update({BAD: judge('{"verdict": "ye')}), "candidate have an error"),
    "the judge's reply is empty": (lambda mine, _: mine.update({BAD: judge("")}), "candidate have an error"),
    "the answer is missing": (lambda mine, _: mine.update({BAD: score_json_schema(None, {})}), "candidate have an error"),
    "the retrieval failed": (lambda _, theirs: theirs.update({BAD: score_retrieval_hit(None, ["a"])}), "production have an error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_injected_fault_fails_the_gate(fault: str) -> None:
    cases, candidate, production = make_evidence()
    inject, reason = FAULTS[fault]
    inject(candidate, production)
    found = compare_scores(cases, candidate, production, seed="v2").may_replace(no_worse_by=0.02)
    assert not found.passed
    assert reason in found.reason


def test_twenty_faults_or_more_are_injected() -> None:
    assert len(FAULTS) >= 20


@settings(deadline=None)
@given(st.data())
def test_no_number_of_faults_passes(data: st.DataObject) -> None:
    cases, candidate, production = make_evidence()
    faulty = data.draw(st.lists(st.sampled_from(cases), min_size=1, unique=True))
    for case in faulty:
        side = data.draw(st.sampled_from([candidate, production]))
        side[case] = data.draw(st.sampled_from([None, math.nan, math.inf, Score(error="timeout"), 2.0, "1"]))
    found = compare_scores(cases, candidate, production, seed="v2")
    assert not found.may_replace(no_worse_by=1.0).passed
    assert found.pairs == len(cases) - len(faulty)


@pytest.mark.parametrize("cases", [[], CASES[:1], CASES[:19]])
def test_too_few_cases_fail_the_gate(cases: list[str]) -> None:
    scores = dict.fromkeys(cases, 1.0)
    found = compare_scores(cases, scores, dict.fromkeys(cases, 0.0), seed="v2")
    assert found.may_replace(no_worse_by=0.5).reason == f"{len(cases)} cases have a score on both sides; 20 are needed"
    assert found.may_replace(no_worse_by=0.5, min_pairs=0).passed == (len(cases) > 1)


def test_errors_up_to_the_declared_rate_pass_and_are_left_out() -> None:
    cases, candidate, production = make_evidence()
    candidate |= dict.fromkeys(CASES[:2], Score(error="timeout"))
    found = compare_scores(cases, candidate, production, seed="v2")
    assert found.may_replace(no_worse_by=0.02, max_error_rate=0.05).passed
    assert (found.pairs, found.candidate_errors.value, found.production_errors.value) == (38, 0.05, 0)
    refused = found.may_replace(no_worse_by=0.02, max_error_rate=0.04)
    assert refused.reason == "2 of 40 cases of the candidate have an error; at most 4 % may have one"
    assert not found.may_replace(no_worse_by=0.02, max_error_rate=math.nan).passed


def test_the_lower_end_decides() -> None:
    production = {case: float(number % 2) for number, case in enumerate(CASES)}
    candidate = production | {CASES[1]: 0.0, CASES[2]: 1.0, CASES[3]: 0.0}
    found = compare_scores(CASES, candidate, production, seed="v2")
    assert found.difference == pytest.approx(-1 / 40)
    assert found.low < -0.1 < found.high
    refused = found.may_replace(no_worse_by=0.05)
    assert not refused.passed
    assert "its lower end is below −0.05" in refused.reason
    assert found.may_replace(no_worse_by=-found.low).passed
    assert not found.may_replace(no_worse_by=math.nextafter(-found.low, 0)).passed


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=2, max_size=30))
def test_exchanging_the_sides_mirrors_the_comparison(pairs: list[tuple[float, float]]) -> None:
    cases = [str(number) for number in range(len(pairs))]
    mine, theirs = (dict(zip(cases, side, strict=True)) for side in zip(*pairs, strict=True))
    one, other = compare_scores(cases, mine, theirs, seed="s"), compare_scores(cases, theirs, mine, seed="s")
    assert (one.candidate, one.production) == (other.production, other.candidate)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=1e-12)
    assert one.difference == pytest.approx(np.mean([a - b for a, b in pairs]), abs=1e-12)
    assert one.low <= one.difference + 1e-12
    assert one.difference <= one.high + 1e-12


def test_the_interval_is_scipys_bootstrap_widened_for_few_cases() -> None:
    rng = np.random.default_rng(8)
    mine, theirs = rng.beta(2, 1, 60), rng.beta(1, 1, 60)
    cases = [str(number) for number in range(60)]
    found = compare_scores(cases, dict(zip(cases, mine, strict=True)), dict(zip(cases, theirs, strict=True)), seed="v2")
    known = stats.bootstrap((mine - theirs,), np.mean, n_resamples=20_000, method="percentile", rng=rng).confidence_interval
    widening = stats.t.ppf(0.975, 59) / stats.norm.ppf(0.975) * math.sqrt(60 / 59)
    centre = (mine - theirs).mean()
    assert found.low == pytest.approx(centre + widening * (known.low - centre), abs=0.005)
    assert found.high == pytest.approx(centre + widening * (known.high - centre), abs=0.005)


def test_the_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_assets.compute.llm_evaluation.comparison._DRAWS", 1000)
    rng, cases = np.random.default_rng(4), [str(number) for number in range(25)]
    covered = []
    for seed in range(400):
        mine, theirs = rng.random(25) < 0.8, rng.random(25) < 0.6
        found = compare_scores(
            cases, dict(zip(cases, mine * 1.0, strict=True)), dict(zip(cases, theirs * 1.0, strict=True)), seed=str(seed)
        )
        covered.append(found.low <= 0.2 <= found.high)
    assert np.mean(covered) >= 0.93


def test_the_same_seed_gives_the_same_interval() -> None:
    production = {case: (number % 5) / 5 for number, case in enumerate(CASES)}
    candidate = {case: (number % 7) / 7 for number, case in enumerate(CASES)}
    bounds = [(found.low, found.high) for seed in "aab" for found in [compare_scores(CASES, candidate, production, seed=seed)]]
    assert bounds[0] == bounds[1] != bounds[2]


def test_cases_that_cannot_be_paired_are_named() -> None:
    with pytest.raises(DataError, match="'other', no case of the evaluation set"):
        compare_scores(["a"], {"a": 1.0, "other": 1.0}, {"a": 1.0}, seed="s")
    with pytest.raises(DataError, match="'a' occurs more than once"):
        compare_scores(["a", "a"], {"a": 1.0}, {"a": 1.0}, seed="s")


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(DefinitionError, match="no_worse_by"):
        compare_scores([], {}, {}, seed="s").may_replace(no_worse_by=margin)
