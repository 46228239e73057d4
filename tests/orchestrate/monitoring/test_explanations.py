"""A window in which a metric fell says what moved and what it cost, on its page and in the metadata of its report."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.explanation.shap_summary import ShapSummary
from mlops_assets.compute.pages.monitor_page import MonitorPage
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.monitoring import explanations, reports, shap_summaries
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.serving.formats.packaging import unpack
from mlops_assets.serving.predict.explainer import load_explainer
from mlops_assets.serving.predict.predictor import list_columns
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.home_template import HomeTemplate, open_home_template

BASE, ROWS, REPORT = datetime(2024, 1, 1, tzinfo=UTC), 150, "performance_report/watch"
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")


def draw_day(day: int) -> pl.DataFrame:
    """The temperature is in Fahrenheit from the 20th day on; the label is not affected."""
    random = np.random.default_rng(day)
    temp, wind = random.normal(10, 5, ROWS), random.normal(size=ROWS)
    at = [BASE + timedelta(days=day, minutes=n) for n in range(ROWS)]
    shown = temp * 9 / 5 + 32 if day >= 19 else temp
    y = temp + wind + random.normal(size=ROWS)
    return pl.DataFrame({"id": [f"{day}-{n}" for n in range(ROWS)], "at": at, "temp": shown, "wind": wind, "y": y})


def build(platform: ml.Platform) -> dg.Definitions:
    """Return a project whose monitor declares no drift."""

    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        days = pl.concat(draw_day(day) for day in range((window.start - BASE).days, (window.end - BASE).days))
        return days.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    @ml.training_set(columns=["temp", "wind"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=5)))
    def examples(points: pl.LazyFrame) -> pl.LazyFrame:
        return points

    @ml.model(training_set=examples, metrics=["neg_mean_absolute_error"])
    def guess(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=guess, dataset=points)
    expected = ml.Performance("neg_mean_absolute_error", no_worse_than_reference_by=0.5, min_labels=10)
    monitor = ml.Monitor("watch", of=scores, expectations=expected, min_rows=50)
    return ml.build_definitions([points, examples, guess, scores, monitor], platform=platform)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[HomeTemplate]:
    """The home of a champion and its predictions."""
    with open_home_template(tmp_path_factory.mktemp("watched")) as made:
        runner = Runner(build(made.platform), made.instance)
        runner("dataset/points", partitions="2024-01-01...2024-01-14")
        runner("training_set/examples", "model/guess", "version/guess", "champion/guess")
        runner("dataset/points", "predictions/scores", partitions="2024-01-18...2024-01-24")
        yield made


@pytest.fixture
def watched(template, platform, instance) -> Runner:
    template.copy_to(platform, instance)
    return Runner(build(platform), instance)


def test_a_column_in_another_unit_is_named_on_the_page_and_in_the_metadata(watched: Runner, platform) -> None:
    facts = metadata(watched(REPORT, partitions="2024-01-20"), REPORT)
    assert facts["state"] == "breach"
    assert facts["explanation"].startswith("neg_mean_absolute_error fell from −")
    assert "in 2024-01-20; replacing temp by its reference explains" in facts["explanation"]
    assert "| wind" in facts["explained by column"]
    page = build_page_path(platform.home, "watch", "2024-01-20").read_text()
    assert facts["explanation"] in page
    assert "Effect of drifted columns" in page
    assert "Measured on 150 rows" in page


def test_a_window_without_a_drop_has_no_explanation_and_a_backfill_explains_three_windows(watched: Runner, platform) -> None:
    assert "explanation" not in metadata(watched(REPORT, partitions="2024-01-18"), REPORT)
    assert "Effect of drifted columns" not in build_page_path(platform.home, "watch", "2024-01-18").read_text()
    facts = metadata(watched(REPORT, partitions="2024-01-18...2024-01-24"), REPORT)
    assert facts["explanation"].count("fell from") == 3
    pages = [build_page_path(platform.home, "watch", f"2024-01-{day}").read_text() for day in (21, 22, 23, 24)]
    assert ["Effect of drifted columns" in page for page in pages] == [False, True, True, True]


def test_a_drop_that_cannot_be_explained_fails_no_report(watched: Runner, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("the bytes of the model are missing", hint="restore them")

    monkeypatch.setattr(explanations, "unpack", refuse)
    facts = metadata(watched(REPORT, partitions="2024-01-20"), REPORT)
    assert facts["state"] == "breach"
    assert "explanation" not in facts


def list_shap_rows(facts: dict) -> dict[str, list[str]]:
    """Return the cells of each column from the table in the metadata."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in facts["predictions depended on"].splitlines() if "|" in line]
    return {cells[0]: cells[1:] for cells in lines if cells[0] in ("temp", "wind")}


def test_a_window_in_which_a_metric_fell_shows_what_its_predictions_depended_on(watched: Runner, platform) -> None:
    pytest.importorskip("shap")
    facts = metadata(watched(REPORT, partitions="2024-01-20"), REPORT)
    assert list(list_shap_rows(facts)) == ["temp", "wind"]
    assert "higher values raise it" in list_shap_rows(facts)["temp"]
    page = build_page_path(platform.home, "watch", "2024-01-20").read_text()
    assert "What the predictions depended on" in page
    assert "SHAP values of the prediction, on 150 of 150 predictions and 64 reference rows" in page
    metadata(watched(REPORT, partitions="2024-01-18"), REPORT)
    assert "depended" not in build_page_path(platform.home, "watch", "2024-01-18").read_text()


def test_the_summary_has_the_values_of_the_service_and_its_effects_sum_to_the_predictions(watched: Runner, platform, monkeypatch) -> None:
    pytest.importorskip("shap")
    summaries: list[ShapSummary] = []
    render = reports.render_monitor

    def keep(page: MonitorPage) -> str:
        summaries.extend(section.dependence for section in page.versions if section.dependence)
        return render(page)

    monkeypatch.setattr(reports, "render_monitor", keep)
    watched(REPORT, partitions="2024-01-20")
    (summary,) = summaries
    stores = open_stores(platform)
    (version,) = stores.registry.versions("guess")
    explain = load_explainer(unpack(stores.artifacts, version.artifact, ()), stores.artifacts)
    X = draw_day(19).select("temp", "wind")
    found = [explain(list_columns(rows), rows.height) for rows in X.iter_slices(20)]
    values = np.concatenate([each.values for each in found])
    for column in summary.columns:
        i = X.columns.index(column.name)
        assert column.size == pytest.approx(np.abs(values[:, i]).mean())
        assert column.effect == pytest.approx(values[:, i].mean())
    assert sum(column.effect for column in summary.columns) == pytest.approx(summary.mean - summary.base)
    assert summary.base == pytest.approx(found[0].bases[0])
    stored = stores.lake.read("predictions/scores").filter(pl.col("at").dt.day() == 20)
    assert summary.mean == pytest.approx(stored["prediction"].mean())


def test_without_the_library_the_page_says_how_to_install_it(watched: Runner, platform, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    assert "predictions depended on" not in metadata(watched(REPORT, partitions="2024-01-20"), REPORT)
    assert "pip install &#39;mlops_assets[explain]&#39;" in build_page_path(platform.home, "watch", "2024-01-20").read_text()


def test_a_slow_model_explains_fewer_rows(watched: Runner, platform, monkeypatch) -> None:
    pytest.importorskip("shap")
    monkeypatch.setattr(shap_summaries, "MAX_SECONDS", 0.0)
    watched(REPORT, partitions="2024-01-20")
    assert "on 20 of 150 predictions and 20 reference rows" in build_page_path(platform.home, "watch", "2024-01-20").read_text()
