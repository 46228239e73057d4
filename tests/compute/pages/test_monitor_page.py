"""The page of a window: one small document that needs nothing, says the state in words and escapes everything."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.prediction_drift import add_prediction_drift, select_predictions
from mlops_assets.compute.drift.profile import PREDICTION, build_profile
from mlops_assets.compute.explanation.performance_drop import ColumnEffect, DropExplanation
from mlops_assets.compute.explanation.shap_summary import ColumnDependence, ShapSummary
from mlops_assets.compute.monitoring.labels import LabelArrivals
from mlops_assets.compute.monitoring.performance import PerformanceReport, measure_performance
from mlops_assets.compute.monitoring.window_slices import WindowSlice
from mlops_assets.compute.pages import charts
from mlops_assets.compute.pages.charts import Point, TimelineMark
from mlops_assets.compute.pages.evidently_page import render_evidently
from mlops_assets.compute.pages.monitor_page import MonitorPage, VersionReports, render_monitor
from mlops_assets.compute.text import format_number
from mlops_assets.errors import DataError, MissingExtraError
from mlops_assets.values.drift import Drift
from mlops_assets.values.monitoring import BREACH, GOOD, NOT_ENOUGH, Performance

NASTY = "<script>alert('x')</script>&\"quoted\""
VOID = {"meta", "path", "circle", "br"}


class Strict(HTMLParser):
    """Tags in balance, text and attributes kept."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def frame(rows: int, seed: int, **more: pl.Expr) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    shares = rng.random(rows)
    columns = {"id": np.arange(rows), "x": rng.normal(size=rows), "rain": np.where(rng.random(rows) < 0.9, 0, rng.exponential(size=rows))}
    kinds = {
        "kind": rng.choice(["a", "b", NASTY], rows),
        "__prediction": shares > 0.5,
        "__probability": shares,
        "late": rng.random(rows) < shares,
    }
    return pl.DataFrame({**columns, **kinds}).rename({"x": NASTY}).with_columns(**more)


def reports(current: pl.DataFrame, labels: pl.DataFrame | None = None) -> tuple[DriftReport, PerformanceReport]:
    before = frame(6000, 1)
    at = pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=20 * i) for i in range(6000)])
    profile = build_profile(before.select(NASTY, "rain", "kind"), at)
    outputs = build_profile(select_predictions(before, [False, True]), at, role=PREDICTION)
    expectations = [Performance("roc_auc", at_least=0.6, slices="kind"), Performance("neg_log_loss", no_worse_than_reference_by=0.1)]
    arrived = current if labels is None else labels
    found = measure_performance(
        current.drop("late"),
        arrived.select("id", "late"),
        key=["id"],
        label="late",
        metrics=["accuracy"],
        expectations=expectations,
        reference={"neg_log_loss": -0.5},
    )
    predicted = select_predictions(current, [False, True])
    return add_prediction_drift(measure_drift(profile, current), outputs, predicted, Drift(predictions=True), 100), found


def page(current: pl.DataFrame, labels: pl.DataFrame | None = None, **more) -> str:
    found, quality = reports(current, labels)
    history = tuple(
        Point(f"2024-03-{i + 1:02}", 0.7 - i / 100, 0.65 - i / 100, 0.75 - i / 100, [GOOD, BREACH, NOT_ENOUGH][i % 3]) for i in range(9)
    )
    return render_monitor(MonitorPage("watch", "2024-03-09", "m" + NASTY, (VersionReports(6, found, quality, history),), (NASTY,), **more))


def checked(document: str) -> Strict:
    """A document that needs nothing, is well formed, and shows what is nasty as text."""
    assert len(document) < 300_000
    parsed = Strict(document)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in parsed.tags}
    assert not re.search(r"(?:src|href|url\(|@import|http)", document)
    assert NASTY not in document
    assert "nan" not in document.lower().replace("not enough", "")
    for svg in re.findall(r"<svg.*?</svg>", document, re.DOTALL):
        root = ET.fromstring(svg)  # noqa: S314  (we made it)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
    assert all("scope" in attributes for tag, attributes in parsed.tags if tag == "th")
    return parsed


def test_a_quiet_window() -> None:
    parsed = checked(page(frame(900, 2)))
    assert "Performance is good" in parsed.text
    assert "No drift" in parsed.text
    assert f"Predictions of m{NASTY}, version 6" in parsed.text
    assert "900 of 900 predictions have a label (100.0%)" in parsed.text
    assert re.search(r"Expected false alarms: 1 % of windows, calibrated on 8\d reference windows", parsed.text)
    assert "95 % CI by jackknife over independent rows" in parsed.text


def test_the_verdict_on_a_drop_comes_first_and_its_table_shows_each_column() -> None:
    found, quality = reports(frame(900, 2))
    effects = (ColumnEffect((NASTY,), 0.03, 0.01, 0.05), ColumnEffect(("rain",), -0.001, -0.01, 0.008))
    explanation = DropExplanation("roc_auc", 0.66, 0.72, effects, (ColumnEffect((NASTY, "rain"), 0.04),), 2000, 1.5)
    shown = VersionReports(6, found, quality, explanation=explanation)
    parsed = checked(render_monitor(MonitorPage("watch", "2024-03-09", "m", (shown,))))
    verdict = f"roc_auc fell from 0.720 (holdout) to 0.660 in 2024-03-09; replacing {NASTY} by its reference explains 0.030 of it"
    assert parsed.text.index(verdict) < parsed.text.index("Performance is good")
    assert "(95 % CI 0.010 to 0.050); 0.030 is not explained by any single column." in parsed.text
    assert "Measured on 2,000 rows in 1.5 s" in parsed.text
    assert f"{NASTY}, rain, together" in parsed.text


def test_a_window_shows_what_its_predictions_depended_on() -> None:
    found, quality = reports(frame(900, 2))
    columns = (ColumnDependence(NASTY, 0.12, 0.05, 0.08, 0.9), *(ColumnDependence(f"x{i}", 0.01, 0.01, 0.002) for i in range(11)))
    summary = ShapSummary("the probability of True", 200, 900, 64, 0.42, 0.318, columns, 1.25)
    document = render_monitor(MonitorPage("watch", "2024-03-09", "m", (VersionReports(6, found, quality, dependence=summary),)))
    parsed = checked(document)
    assert "What the predictions depended on" in parsed.text
    assert "SHAP values of the probability of True, on 200 of 900 predictions and 64 reference rows of the version" in parsed.text
    assert "the mean in this window, 0.420, minus that of the reference rows, 0.318. Computed in 1.2 s." in parsed.text
    assert re.search(r"<td>0.120</td><td>0.0500</td>\s*<td>0.0800</td><td class=\"words\">higher values raise it</td>", document)
    assert "2 other columns</th><td></td><td></td><td>0.00400</td>" in document
    assert any("Mean |SHAP value| by column in the reference" in str(found.get("aria-label")) for tag, found in parsed.tags if tag == "svg")


def test_a_window_without_shap_values_says_why() -> None:
    shown = VersionReports(6, *reports(frame(900, 2)), dependence=ShapSummary(problem="the version predicts classes without probabilities"))
    parsed = checked(render_monitor(MonitorPage("watch", "2024-03-09", "m", (shown,))))
    assert "No SHAP values: the version predicts classes without probabilities." in parsed.text
    assert "Mean |SHAP value|" not in parsed.text


def test_a_window_of_two_versions_has_a_section_of_each() -> None:
    found, quality = reports(frame(900, 2))
    both = (VersionReports(6, found, quality), VersionReports(7, *reports(frame(50, 4))))
    parsed = checked(render_monitor(MonitorPage("watch", "2024-03-09", "m", both)))
    first, second = parsed.text.split("Version 6")[1].split("Version 7")
    assert "Predictions of m, versions 6, 7" in parsed.text
    assert "Performance is good" in first
    assert "Not enough data to evaluate drift" in second
    assert "Performance is good" not in second


def test_a_window_in_which_everything_is_wrong() -> None:
    current = frame(900, 3, rain=pl.lit(None, dtype=pl.Float64), late=~pl.col("late"), kind=pl.lit("new" + NASTY)).drop(NASTY)
    parsed = checked(page(current))
    assert "The labels look inverted" in parsed.text
    assert "is below 0.5, which chance does not explain" in parsed.text
    assert "3 of 5 columns drifted" in parsed.text
    assert {"prediction (output)", "probability of True (output)"} <= set(re.findall(r"\w[\w ]+ \(output\)", parsed.text))
    assert "the column is missing" in parsed.text
    assert "no row has a value" in parsed.text


def test_a_window_without_probabilities_is_not_short_of_data() -> None:
    parsed = checked(page(frame(900, 2).drop("__probability")))
    assert "Performance cannot be measured" in parsed.text
    assert "it needs probabilities, and none were stored with these predictions" in parsed.text
    assert "Not enough data" not in parsed.text


def test_a_window_about_which_little_is_known() -> None:
    parsed = checked(page(frame(50, 4)))
    assert "Not enough data to evaluate performance" in parsed.text
    assert "Not enough data to evaluate drift" in parsed.text
    empty = checked(page(frame(900, 4).clear()))
    assert "nothing was predicted" in empty.text
    late = checked(page(frame(900, 4), frame(900, 4).head(100)))
    assert "11.1% of 900 predictions have a label, 50.0% are needed" in late.text
    none = checked(render_monitor(MonitorPage("watch", "2024-03-09", "m", (VersionReports(None),))))
    assert "No performance report" in none.text
    assert "No drift report" in none.text


def test_many_columns_and_slices_stay_light() -> None:
    rng = np.random.default_rng(0)
    wide = pl.DataFrame(rng.normal(size=(300, 170)), schema=[f"column_{i}" for i in range(170)])
    document = render_monitor(MonitorPage("watch", "d", "m", (VersionReports(6, measure_drift(build_profile(wide), wide)),)))
    text = checked(document).text
    assert "20 columns with lower drift are not shown" in text
    assert "Expected false alarms: 1 % of windows if rows are independent." in text


@pytest.mark.parametrize(
    ("large", "small", "caption"),
    [
        (150, 0, "By slice with 95 % CI."),
        (150, 2, "By slice with 95 % CI, 2 with fewer than 30 rows left out."),
        (157, 0, "By slice with 95 % CI; 7 more are not shown."),
        (157, 2, "By slice with 95 % CI, 2 with fewer than 30 rows left out; 7 more are not shown."),
    ],
)
def test_small_slices_and_slices_beyond_the_table_are_counted_apart(large: int, small: int, caption: str) -> None:
    slices = tuple(WindowSlice("airport", str(i), 30 if i < large else 29, (("r2", 0.5),)) for i in range(large + small))
    report = PerformanceReport(LabelArrivals(9000, 9000), slices=slices)
    document = render_monitor(MonitorPage("watch", "d", "m", (VersionReports(6, None, report),)))
    assert f">{caption}<" in document


def test_numbers_are_for_people() -> None:
    shown = {
        0.12345: "0.123",
        -2.0: "−2.00",
        0.0: "0",
        1234567.0: "1.23e+06",
        1e-5: "1.00e-05",
        float("inf"): "∞",
        float("nan"): "–",
        None: "–",
    }
    assert {value: format_number(value) for value in shown} == shown


def test_charts_of_almost_nothing() -> None:
    assert charts.draw_history([Point("d", None)], None, "x") == ""
    for svg in (
        charts.draw_history([Point("d", 0.5)], 0.5, "x"),
        charts.draw_histogram((), "x"),
        charts.draw_threshold((), 0.1, 0.0, "x"),
        charts.draw_categories((), "x"),
    ):
        ET.fromstring(svg)  # noqa: S314


def test_evidently_makes_its_own_report(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = frame(400, 1).drop("id", "late"), frame(200, 2).drop("id", "late").with_columns(rain=None)
    html = render_evidently(before, after, max_rows=100)
    assert "<html" in html
    assert 1e6 < len(html) < 1e7
    with pytest.raises(DataError, match="no column with values in common"):
        render_evidently(before.select("kind"), after.select("rain"))
    monkeypatch.setitem(__import__("sys").modules, "evidently", None)
    with pytest.raises(MissingExtraError, match=r"evidently is not installed\nHint: pip install 'mlops_assets\[evidently\]'"):
        render_evidently(before, after)


def test_a_history_marks_versions_alarms_and_decisions_by_window() -> None:
    points = [Point(f"day {day}", 0.5 + day / 10) for day in range(3)]
    marks = [TimelineMark(1, "version", "version <2>"), TimelineMark(2, "drift", "price"), TimelineMark(2, "decision", "retrain")]
    plain, marked = charts.draw_history(points, 0.6, "x"), charts.draw_history(points, 0.6, "x", marks)
    assert "version &lt;2&gt;" in marked
    assert marked.count('class="drift-mark"') == 1
    assert "<title>retrain</title>" in marked
    assert "drift-mark" not in plain
    assert "version" not in plain
