"""The report of a pull request says what it should, and shows every name literally, in Markdown and on its page."""

import math

import pytest

from mlops_assets.compute.pages.ci_page import render_candidate
from mlops_assets.compute.pages.ci_report import CiReport, FieldChange, MetricRow, SliceRow, escape_markdown, render_report
from tests.browser import browser_page

NASTY = "<b>x</b>'; DROP TABLE runs; -- | @team #12 `code` [a](javascript:alert(1))\nnew line"


def report(**more) -> CiReport:
    values = {
        "model": "m",
        "candidate": "0123456789abcdef",
        "compared": "version 3, champion of prod",
        "metrics": [MetricRow("roc_auc", 0.7, 0.69, 0.002, 0.018, ("roc_auc_at_least",))],
        "gates": {"roc_auc_at_least": (True, "roc_auc 0.7 ≥ 0.65")},
    }
    return CiReport(**(values | more))


@pytest.mark.parametrize(
    ("more", "verdict", "said"),
    [
        ({}, "better", "better than the champion, passed its 1 gate"),
        ({"metrics": [MetricRow("a", 1, 2, -0.3, -0.1)]}, "worse", "worse than the champion"),
        ({"metrics": [MetricRow("a", 1, 2, -0.3, 0.1)]}, "no different", "no different from the champion"),
        ({"metrics": [MetricRow("a", 1, 2, 0.1, 0.2), MetricRow("b", 1, 2, -0.2, -0.1)]}, "worse", "worse than the champion"),
        ({"compared": ""}, "the first", "the first candidate"),
        ({"gates": {"roc_auc_at_least": (True, ""), "fair": (False, "LGA 0.4")}}, "blocked", "blocked by fair"),
        ({"gates": {}, "metrics": []}, "no different", "no gate is declared"),
    ],
)
def test_the_verdict_follows_from_gates_first_and_from_the_intervals_then(more, verdict, said) -> None:
    found = report(**({"gates": {"roc_auc_at_least": (True, "ok")}} | more))
    assert found.verdict == verdict
    assert found.passed is (verdict != "blocked")
    assert said in render_report([found]).splitlines()[0]


def test_figures_stand_where_they_belong() -> None:
    more = [MetricRow("neg_log_loss", math.nan, -0.5)]
    shown = render_report([report(metrics=[*report().metrics, *more], slices=[SliceRow("origin = EWR", 1200, "roc_auc", 0.6, None)])])
    assert "| roc\\_auc | 0.7000 | 0.6900 | +0.0100 | +0.0020 to +0.0180 | ✅ roc\\_auc 0.7 ≥ 0.65 |" in shown
    assert "| neg\\_log\\_loss | undefined | −0.5000 | – | – | – |" in shown
    assert "| origin = EWR | 1,200 | roc\\_auc | 0.6000 | – | – |" in shown
    assert "Training data: unchanged." in shown
    long = render_report([report(record=[FieldChange(f"libraries.p{i}", "1", "2" * 200) for i in range(50)])])
    assert "20 more rows are not shown." in long
    assert "2" * 61 not in long


def test_a_name_is_shown_as_it_is_and_does_nothing(tmp_path) -> None:
    gates = {NASTY: (False, NASTY)}
    told = [
        report(
            model=NASTY,
            compared=NASTY,
            gates=gates,
            metrics=[MetricRow(NASTY, 1.0)],
            problems=[NASTY],
            record=[FieldChange(NASTY, NASTY, NASTY)],
        )
    ]
    shown = render_report(told)
    assert "<b>" not in shown
    assert "@team" not in shown
    assert len({line.count(" | ") for line in shown.splitlines() if line.startswith("| ") and "DROP" in line and "–" in line}) == 1
    (tmp_path / "page.html").write_text(render_candidate(shown, tmp_path))
    with browser_page() as page:
        page.goto((tmp_path / "page.html").as_uri())
        literal = " ".join(NASTY.split())
        assert page.locator("h2").inner_text() == f"✗ {literal}: blocked by {literal}"
        assert page.locator("main b:not(.good):not(.bad):not(.warn), main a, main script").count() == 0
        assert page.locator("td", has_text="DROP TABLE runs").first.inner_text() == literal
        page.locator("summary").click()
        assert page.locator("details td").first.inner_text() == literal


@pytest.mark.parametrize("plain", ["roc auc 0.7 ≥ 0.65 (of 12)", "EWR, LGA + JFK!"])
def test_plain_words_stay_plain(plain) -> None:
    assert escape_markdown(plain) == plain
