"""What the pages of the console show, of a platform that a project has filled."""

import json
import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.console import monitor_pages
from mlops_assets.orchestrate.console.app import PAGES
from mlops_assets.orchestrate.console.model_pages import find_version
from mlops_assets.orchestrate.monitoring.reports import WINDOW_START
from mlops_assets.serving.http.service_folder import write_json
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.readers import list_readers
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.alerts import SourcePosition, SourceReading
from mlops_assets.stores.registry.records import CandidateRecord, Evidence
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.alerts.episodes import AlertFact
from mlops_assets.values.window import TimeWindow
from tests.orchestrate.console.conftest import BAD_DAY, DAGSTER, GOOD_DAY, Console, hash_files, open_site
from tests.projects import shop

PATHS = {
    "/models/{model}": "/models/buyer",
    "/models/{model}/compare": "/models/buyer/compare?version=1",
    "/models/{model}/score": "/models/buyer/score",
    "/models/{model}/versions/{version}": "/models/buyer/versions/1",
    "/models/{model}/versions/{version}/card": "/models/buyer/versions/1/card",
    "/monitors/{monitor}": "/monitors/batch_watch",
    "/monitors/{monitor}/windows/{window}": f"/monitors/batch_watch/windows/{BAD_DAY}",
    "/monitors/{monitor}/windows/{window}/report": f"/monitors/batch_watch/windows/{BAD_DAY}/report",
    "/services/{service}": "/services/shop_api",
    "/features/{view}": "/features/crowds",
    "/predictions/{name}": "/predictions/shop_batch",
}
DOCUMENTS = ("card", "report", "{replay}")


def list_paths(console) -> list[str]:
    """Return an address of every page but that of a replay."""
    run = console.site.tracker.list(limit=1)[0].id
    return [PATHS.get(path, path).replace("{run}", run) for path in PAGES if "{replay}" not in path]


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_front_page_names_what_needs_attention_and_the_command_that_acts(filled) -> None:
    page = filled.read("/")
    assert "batch_watch: performance is too low" in page
    assert "batch_watch: drift" in page
    assert "careful_buyer@1 waits for approval" in page
    assert "mlops models approve careful_buyer 1 --approver NAME --reason WHY" in page
    assert "<h1>3 things need attention</h1>" in page


def test_every_page_answers_shows_a_command_and_links_to_the_dagster_ui(filled) -> None:
    for path in list_paths(filled):
        page = filled.read(path)
        if path.endswith(DOCUMENTS):
            continue
        assert f'href="{DAGSTER}"' in page, path
        assert "<script" not in page, path
        assert re.search(r"<code>mlops [a-z]", page) or "/compare" in path, path


def test_a_request_changes_no_file_of_the_platform(filled) -> None:
    home = Path(filled.site.platform.home)
    before = hash_files(home)
    for path in list_paths(filled):
        filled.read(path)
    assert hash_files(home) == before


def test_a_model_shows_its_champion_versions_and_moves(filled) -> None:
    page = text_of(filled.read("/models/buyer"))
    assert "Version 1 is the champion" in page
    assert "promotion" in page
    assert "roc_auc_at_least" in page
    careful = text_of(filled.read("/models/careful_buyer"))
    assert "Version 1 waits for approval" in careful
    assert "mlops models rollback buyer --reason WHY" in page


def test_a_version_shows_evidence_data_code_and_its_card(filled) -> None:
    page = text_of(filled.read("/models/buyer/versions/1"))
    for expected in ("Evidence of the gates", "table training_set/examples", "library scikit-learn", "code of the model", "commit"):
        assert expected in page
    version = find_version(filled.site, "buyer", "1")
    assert version.digest in page
    card = filled.ask("/models/buyer/versions/1/card")
    assert "buyer, version 1" in card.text
    assert "sandbox" in card.headers["content-security-policy"]


def test_versions_are_compared_by_metrics_parameters_data_and_code(filled) -> None:
    page = text_of(filled.read("/models/buyer/compare?version=1&version=1"))
    assert "Choose two versions or more" in page
    run = open_stores(filled.site.platform).tracker.load([find_version(filled.site, "buyer", "1").run_id])
    other = find_version(filled.site, "careful_buyer", "1").run_id
    both = text_of(filled.read(f"/runs/compare?run={next(iter(run))}&run={other}"))
    assert "Metrics" in both
    assert "differ and come first" in both


def test_a_run_shows_its_curves_and_its_place_in_dagster(filled) -> None:
    run = find_version(filled.site, "careful_buyer", "1").run_id
    page = filled.read(f"/runs/{run}")
    assert "loss by step" in page
    assert f"{DAGSTER}/runs/" in page
    assert filled.read(f"/runs/{run[:8]}") == page


def test_runs_are_filtered_and_ordered_and_a_wrong_filter_is_explained(filled) -> None:
    page = filled.read("/runs?where=experiment = 'careful_buyer'&order=metrics.roc_auc desc")
    assert page.count('<th scope="row">') == 1
    assert "roc_auc ↓" in page
    assert "mlops runs list --where" in page
    refused = filled.ask("/runs?where=metrics.rocauc > 1")
    assert refused.status_code == 400
    assert "did you mean &#39;roc_auc&#39;" in refused.text


def test_a_run_whose_process_has_ended_is_named_and_not_marked(filled) -> None:
    tracker = filled.site.stores.tracker
    process = {"host": os.uname().nodename, "boot": "another", "pid": "1", "started": "1"}
    now = datetime.now(UTC)
    run = Run("dead" * 8, "killed", "", "", now, None, None, {}, {}, {"process": process}, kind="run", status="running")
    tracker.add(run)
    assert "running, but its process has ended" in filled.read("/runs?where=experiment = 'killed'")
    assert filled.site.tracker.get(run.id).status == "running"
    tracker.reap()
    assert "killed" in filled.read(f"/runs/{run.id}")


def test_a_monitor_shows_its_timeline_alarms_and_decisions(filled) -> None:
    page = filled.read("/monitors/batch_watch")
    assert "drift-mark" in page
    assert f"{BAD_DAY}: decision" in page
    assert "roc_auc of 2 windows" in page
    text = text_of(page)
    assert "retrains buyer, attempt 1" in text
    assert "open" in text
    assert "good: roc_auc" in text


def test_drift_is_drawn_at_its_window_when_earlier_partitions_had_other_keys(monkeypatch) -> None:
    monkeypatch.setattr(monitor_pages, "draw_history", lambda points, *_: [(point.label, point.value) for point in points])
    days = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)]
    drift = pl.DataFrame({WINDOW_START: days, "severity": [0.5, 9.0], "drifted": [False, True]})
    drawn = monitor_pages._draw_drift(["2023-W52", "2024-01-01", "2024-01-02"], {days[0]: 1, days[1]: 2}, drift)
    assert drawn == [("2023-W52", None), ("2024-01-01", 0.5), ("2024-01-02", 9.0)]


def test_a_comparison_of_versions_is_cut_and_looks_the_versions_up_once(filled, monkeypatch) -> None:
    registry, asked = filled.site.stores.registry, []
    (version,) = registry.versions("buyer")
    many = [replace(version, version=number) for number in range(1, 61)]
    monkeypatch.setattr(type(registry), "versions", lambda _self, *model: asked.append(model) or many)
    page = filled.read("/models/buyer/compare?" + "&".join(f"version={number}" for number in range(1, 61)))
    assert ("version 20" in page, "version 21" in page) == (True, False)
    assert asked == [("buyer",)]


def test_a_window_shows_metrics_drifted_columns_and_the_stored_report(filled) -> None:
    text = text_of(filled.read(f"/monitors/batch_watch/windows/{BAD_DAY}"))
    assert "400 of 400" in text
    assert re.search(r"price version 1 \d", text)
    assert f"mlops monitor show batch_watch --partition {BAD_DAY}" in text
    report = filled.ask(f"/monitors/batch_watch/windows/{GOOD_DAY}/report")
    assert f"batch_watch, {GOOD_DAY}" in report.text
    unreported = text_of(filled.read("/monitors/batch_watch/windows/2024-03-20"))
    assert "This window is not reported yet" in unreported


def test_a_service_that_never_started_says_so_and_one_that_is_gone_is_down(filled) -> None:
    assert "The service is never started" in filled.read("/services/shop_api")
    folder = Path(filled.site.platform.home) / "services" / "shop_api"
    folder.mkdir(parents=True)
    write_json(folder / "wanted.json", {"state": "running"})
    try:
        assert "The service is down" in filled.read("/services/shop_api")
        assert "shop_api is down" in filled.read("/")
    finally:
        (folder / "wanted.json").unlink()


def test_features_name_declared_and_undeclared_consumers(filled) -> None:
    home = filled.site.platform.home
    begun = datetime.now(UTC) - timedelta(seconds=1)
    ml.read_table("features/crowds", platform=filled.site.platform)
    ml.lookup(shop.crowding, [{"shop": "north"}], platform=filled.site.platform)
    readers = list_readers(home, "features/crowds")
    assert {reader.call for reader in readers} == {"read_table", "lookup"}
    assert all(reader.first >= begun for reader in readers)
    page = text_of(filled.read("/features/crowds"))
    for consumer in (
        "training_set/examples training set declared",
        "buyer model declared",
        "shop_api service declared",
        "buyer@1 version declared",
    ):
        assert consumer in page
    assert "staffing Dagster asset not declared" in page
    assert "program not declared ml.lookup" in page
    assert "Statistics of all rows" in page
    predictions = text_of(filled.read("/predictions/shop_batch"))
    assert "staffing Dagster asset not declared" in predictions
    assert "declared the asset graph" in predictions


def test_replays_are_listed_newest_first_and_a_broken_one_is_named(filled) -> None:
    folder = Path(filled.site.platform.home) / "replays"
    windows = [{"window": "2024-03", "roc_auc": 0.5}, {"window": "2024-04", "roc_auc": 0.75}, {"window": "2024-05", "roc_auc": None}]
    policies = {"never": {"windows": windows, "trainings": []}, "loop": {"windows": windows[1:], "trainings": [{"reason": "breach"}]}}
    result = {"model": "buyer", "metric": "roc_auc", "from": "2024-03-01T00:00", "to": "2024-06-01T00:00", "policies": policies}
    for name, text in (("first", json.dumps(result)), ("broken", "{")):
        (folder / name).mkdir(parents=True)
        (folder / name / "replay.json").write_text(text)
        (folder / name / "replay.html").write_text("<!doctype html><title>replay</title>")
        os.utime(folder / name / "replay.json", (time.time(), time.time() + (name == "first")))
    text = text_of(filled.read("/replays"))
    assert "buyer 2024-03-01 to 2024-06-01 3 never 0.6250 (0); loop 0.7500 (1)" in text
    assert "cannot be read" in text
    assert text.index("first") < text.index("broken")
    answer = filled.ask("/replays/first")
    assert "<title>replay</title>" in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "Did you mean first?" in filled.ask("/replays/firts").text


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("/models/byuer", "buyer"),
        ("/models/buyer/versions/11", "1"),
        ("/monitors/batch_wach", "batch_watch"),
        ("/monitors/batch_watch/windows/2024-03-077", "2024-03-07"),
        ("/services/shop_ap", "shop_api"),
        ("/features/crowd", "crowds"),
        ("/predictions/shop_bach", "shop_batch"),
        ("/modles", "/models"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_one(filled, path: str, suggestion: str) -> None:
    answer = filled.ask(path)
    assert answer.status_code == 404
    assert f"Did you mean {suggestion}?" in answer.text


def test_an_empty_platform_says_what_to_do_first(empty) -> None:
    assert "Nothing has run yet" in empty.read("/")
    for path in (
        "/models",
        "/models/buyer",
        "/runs",
        "/monitors",
        "/monitors/batch_watch",
        "/services",
        "/features",
        "/features/crowds",
        "/replays",
    ):
        assert "mlops " in empty.read(path), path
    assert "No run is recorded yet" in empty.read("/runs")
    assert "not trained yet" in empty.read("/models")
    assert "The view was never materialised" in empty.read("/features/crowds")
    assert "No replay yet" in empty.read("/replays")


def test_two_versions_are_compared_with_their_code_and_the_differences_are_marked(empty) -> None:
    stores, now = empty.site.stores, datetime.now(UTC)
    for number, code in ((1, "first"), (2, "second")):
        record = {"code": code, "python": "3.11", "inputs": [{"table": "training_set/examples", "rows": number, "content_hash": code}]}
        run = Run(f"{number:032x}", "buyer", "", "", now, now, 1, {"C": number}, {"roc_auc": 0.7 + number / 100}, record)
        stores.tracker.add(run)
        digest = f"{number:064x}"
        passed = Evidence("roc_auc_at_least", "x", digest, passed=True, value=0.7, threshold=0.6, reason="0.7 ≥ 0.6")
        stores.registry.submit(CandidateRecord("buyer", digest, run.id, "0" * 64, 1, now), [passed])
        stores.registry.register("buyer", {"roc_auc_at_least": "x"})
    page = empty.read("/models/buyer/compare?version=1&version=2")
    assert '<span class="warn">code of the model</span>' in page
    assert '<span class="warn">table training_set/examples</span>' in page
    assert '<span class="warn">Python</span>' not in page
    text = text_of(page)
    assert "✓ 0.72" in text
    assert "Gates of version 2" in text
    assert 'name="version" value="2"' in empty.read("/models/buyer")


def test_pages_of_runs_follow_each_other_and_keep_filter_and_order(empty) -> None:
    now = datetime.now(UTC)
    for number in range(51):
        empty.site.stores.tracker.add(Run(f"{number:032x}", "toy", "", "", now, now, None, {"depth": number}, {"score": number}, {}))
    first = empty.read("/runs?where=experiment = 'toy'&order=params.depth")
    assert first.count('<th scope="row">') == 50
    (older,) = re.findall(r'href="([^"]+)"[^>]*>older', first)
    second = empty.read(older.replace("&amp;", "&"))
    assert second.count('<th scope="row">') == 1
    assert f"{50:032x}" in second
    assert "← newer" in second


def test_alerts_are_listed_with_what_they_affect(empty) -> None:
    assert "No alert was recorded" in empty.read("/monitors")
    subject, now = "performance_report/batch_watch_performance:roc_auc_at_least", datetime.now(UTC)
    fact = AlertFact(subject, passed=False, at=now.timestamp(), text="roc_auc 0.5 < 0.7", affected=("service/shop_api",))
    reading = SourceReading(subject, None, SourcePosition(1), (fact,))
    empty.site.stores.alerts.advance(
        "instance", [reading], ml.monitoring.Alerts(channels=(ml.monitoring.Webhook("http://127.0.0.1:1"),)), frozenset({subject}), now
    )
    page = text_of(empty.read("/monitors"))
    assert f"{subject} open ERROR" in page
    assert "service/shop_api" in page
    assert "mlops alerts list" in page


def test_a_window_shows_the_rows_of_a_services_objectives(tmp_path) -> None:
    speed = ml.Monitor("speed", of=shop.shop_api, partitions=shop.DAILY, expectations=(ml.monitoring.ErrorRate(at_most=0.01),))
    for site in open_site(tmp_path / "home", [*shop.NOUNS, speed]):
        console, start = Console(site), datetime(2024, 3, 6, tzinfo=UTC)
        rows = pl.DataFrame({"window_start": [start], "version": [3], "requests": [40], "p95": [0.0125], "reason": [None]}).cast(
            {"window_start": pl.Datetime("us", "UTC"), "reason": pl.String}
        )
        part = Partition(GOOD_DAY, TimeWindow(start, start + timedelta(days=1)))
        site.stores.lake.write("system_report/speed", rows, [part], event_timestamp="window_start")
        text = text_of(console.read(f"/monitors/speed/windows/{GOOD_DAY}"))
        assert "version requests p95 reason 3 40 0.01250 –" in text
        assert "key:&#34;system_report/speed_system&#34;" in text
        assert "No window is reported yet" in console.read("/monitors/speed")


def test_the_score_of_a_model_names_its_sections_and_what_to_do_next(filled) -> None:
    page = text_of(filled.read("/models/buyer/score"))
    assert "ML Test Score of buyer" in page
    assert all(section in page for section in ("Data", "Model", "Infrastructure", "Monitoring"))
    assert "visits, crowds of 2 datasets: no schema" in page
    assert "mlops doctor --score --model buyer" in page
    assert 'href="/models/buyer/score"' in filled.read("/models/buyer")
    assert filled.ask("/models/buyr/score").status_code == 404
