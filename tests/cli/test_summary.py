"""The summary of a run announces each thing once, and what no record holds."""

import io
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.cli.monitoring.step import Turn
from mlops_assets.cli.options import build_table, console
from mlops_assets.cli.running import FinishedRun, StepProgress, _show_event
from mlops_assets.cli.serving import build_service_table
from mlops_assets.cli.summary import _asset_table, _describe_service, list_notes, print_summary
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.tables.tables import CUT_TIMES
from mlops_assets.orchestrate.tables.unrecorded import build_unrecorded_metadata, merge_unrecorded

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-05")
DRAWS = random.Random(1)
BASE = datetime(2024, 1, 1, tzinfo=UTC)


def definitions(platform: ml.Platform) -> dg.Definitions:
    @ml.dataset(partitions=DAYS, key="id", event_timestamp="at", keep="last")
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        at = [time for time in (BASE + timedelta(hours=n) for n in range(96)) if window.start <= time < window.end]
        times = pl.Series([*at, at[0]], dtype=pl.Datetime("us", "UTC"))
        x = np.arange(len(times), dtype=float)
        return pl.DataFrame({"id": [str(time) for time in times], "at": times, "x": x, "y": x % 7})

    @ml.feature_view(entity=ml.Entity("id"), event_timestamp="at", features={"z": float}, partitions=DAYS)
    def noise(points: pl.LazyFrame) -> pl.LazyFrame:
        return points.select("id", "at", z=pl.lit(DRAWS.random()))

    @ml.training_set(columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=1)))
    def examples(points: pl.LazyFrame) -> pl.LazyFrame:
        return points

    @ml.model(training_set=examples, metrics=["r2"])
    def line(train: ml.Split) -> LinearRegression:
        DRAWS.random()
        return LinearRegression().fit(train.X, train.y)

    return ml.build_definitions([points, noise, examples, line], platform=platform)


def test_a_run_announces_each_thing_once(run, platform) -> None:
    runner = run(definitions(platform))
    points = list_notes(FinishedRun(runner("dataset/points", partitions="2024-01-01...2024-01-04")))
    assert points == ["[yellow]dataset/points[/]: duplicates: 4 of 100 rows dropped: only the last row of each key is kept"]
    (view,) = list_notes(FinishedRun(runner("features/noise", partitions="2024-01-01...2024-01-04")))
    assert view.startswith("[yellow]features/noise_features[/]: not recorded: ")
    assert view.endswith("test_summary.py:DRAWS (Random): rebuild every partition of the view when it changes")
    for _ in ("trained", "not trained again"):
        (model,) = list_notes(FinishedRun(runner("training_set/examples", "model/line")))
        assert model.startswith("[yellow]model/line_candidate[/]: not recorded: ")
        assert model.endswith("test_summary.py:DRAWS (Random): a change of it does not retrain the model")


def test_a_summary_merges_the_unrecorded_inputs_of_all_chunks() -> None:
    parts = [build_unrecorded_metadata(["a", "b"]), {}, build_unrecorded_metadata(["b", "c"])]
    assert merge_unrecorded(parts) == {"not recorded": "a; b; c"}
    assert merge_unrecorded([{}]) == {}


def render(*printed: object) -> str:
    file = io.StringIO()
    for what in printed:
        Console(file=file, width=300, emoji=False).print(what)
    return file.getvalue()


def materialise(*assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    silent = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return dg.materialize(assets, raise_on_error=False, run_config=silent)


def test_seconds_are_those_of_the_step_that_made_the_asset() -> None:
    def make(name: str, *keys: str) -> dg.AssetsDefinition:
        @dg.multi_asset(name=name, specs=[dg.AssetSpec(dg.AssetKey(key.split("/"))) for key in keys])
        def step():
            for key in keys:
                yield dg.MaterializeResult(asset_key=dg.AssetKey(key.split("/")), metadata={"dagster/row_count": 1})

        return step

    parts = {
        "dbt__shop": ("features/means", "features/maxima"),
        "dbt__shop_1": ("features/daily",),
        "dataset__visits": ("dataset/visits", "quarantine/visits", "quality/visits"),
    }
    result = materialise(*(make(name, *keys) for name, keys in parts.items()))
    steps = {name: StepProgress(name, seconds, "done") for name, seconds in zip(parts, (5.0, 7.0, 2.0), strict=True)}
    cells = [[cell.strip() for cell in line.split("│")] for line in render(_asset_table(FinishedRun(result, steps))).splitlines()]
    assert {row[1]: row[4] for row in cells if len(row) > 4} == {
        "features/means": "5.0",
        "features/maxima": "5.0",
        "features/daily": "7.0",
        "dataset/visits": "2.0",
        "quarantine/visits": "",
        "quality/visits": "",
    }


def test_a_summary_prints_text_in_brackets_as_it_is(platform, monkeypatch, tmp_path) -> None:
    @dg.asset(key=["dataset", "points"], check_specs=[dg.AssetCheckSpec("rows", asset=["dataset", "points"])])
    def points():
        check = dg.AssetCheckResult(passed=False, description="slice [carrier=UA] is too small")
        metadata = {CUT_TIMES: "column [at] of 3 rows", "changed partitions": "[none]"}
        return dg.MaterializeResult(metadata=metadata, check_results=[check])

    @dg.asset(key=["drift_report", "watch"])
    def watch():
        return dg.MaterializeResult(metadata={"summary": "[carrier=UA] drifts"})

    @dg.asset(key=["model", "line"])
    def line():
        raise DataError("column [x] is empty", hint="fill it")

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "[home]"))
    target = SimpleNamespace(file=Path("[shop].py"), dagster_arguments=lambda file: ("-f", file))
    registry = SimpleNamespace(champion={"line": None}.get)
    project = SimpleNamespace(parts=[], platform=platform, target=target, stores=SimpleNamespace(registry=registry))
    file = io.StringIO()
    print_summary(project, FinishedRun(materialise(points, watch, line)), Console(file=file, width=300, emoji=False))
    printed = file.getvalue()
    for text in (
        "slice [carrier=UA] is too small",
        "column [at] of 3 rows",
        "[none]",
        "drift_report/watch: [carrier=UA] drifts",
        "✗ model/line: column [x] is empty",
        "the champion stays as it is",
        "[home]",
        "[shop].py",
    ):
        assert text in printed
    assert "[yellow]" not in printed


def test_every_table_and_line_of_a_command_prints_text_in_brackets_as_it_is() -> None:
    turn = Turn({"decision": "3: r2 of [carrier=UA] is low", "reports": ["[a]", "[/b]"]})
    assert render(*turn.lines).splitlines() == ["decision: 3: r2 of [carrier=UA] is low", "reports: [a]", "reports: [/b]"]
    table = render(build_table("rows of [a]", [{"column [b]": "value [c]"}]))
    assert all(text in table for text in ("rows of [a]", "column [b]", "value [c]"))
    worker = SimpleNamespace(running=True, version=1, pid=1, libraries="shop[old]==1")
    status = SimpleNamespace(name="api", wanted="yes", running=True, url="", champion=1, workers=[worker], problem="")
    assert "trained with shop[old]==1" in render(build_service_table([status]))
    status.problem = "[Errno 98] address [in use]"
    assert "[Errno 98] address [in use]" in render(build_service_table([status]))


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (dg.DagsterEventType.STEP_START, "load[a] …"),
        (dg.DagsterEventType.STEP_SUCCESS, "✓ load[a]  3.0 s"),
        (dg.DagsterEventType.STEP_SKIPPED, "– load[a]  not run"),
    ],
)
def test_the_progress_of_a_dynamic_step_has_its_whole_name(event, shown) -> None:
    file, updates = io.StringIO(), []
    entry = SimpleNamespace(dagster_event=SimpleNamespace(event_type=event), step_key="load[a]", timestamp=3.0)
    _show_event(entry, {}, Console(file=file, width=300), updates.append)
    assert shown in file.getvalue() + render(*updates)


def test_the_console_prints_codes_of_emojis_as_they_are(capsys) -> None:
    console().print("source:x:y")
    assert capsys.readouterr().out == "source:x:y\n"


SERVICES = {
    "a model's": (
        {"state": "running", "url": "http://a", "version": 2, "smoke latency ms": 1.5},
        "running at http://a, version 2, smoke latency 1.5 ms",
    ),
    "a prompt's": ({"state": "running", "url": "http://a", "version": 2}, "running at http://a, version 2"),
    "a stopped one": ({"state": "stopped"}, "stopped"),
}


@pytest.mark.parametrize("case", SERVICES)
def test_the_line_of_a_service_has_what_is_known_of_it(case) -> None:
    metadata, line = SERVICES[case]
    assert _describe_service("api", {name: dg.MetadataValue.text(str(value)) for name, value in metadata.items()}) == f"service api: {line}"
