"""`mlops runs`, and the page of a comparison in a real browser."""

import csv
import json
import math
from pathlib import Path

import polars as pl
import pytest

import mlops_assets as ml
from tests.browser import browser_page
from tests.commands import run_mlops
from tests.conftest import clean_environment

EVIL = "<b>x</b>'; DROP TABLE"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("runs") / "home"
    platform = ml.Platform.at(home)
    for depth, rate in ((2, 0.1), (3, 0.3), (5, 0.6)):
        with ml.start_run(
            "lateness", name=f"depth {depth}", params={"depth": depth, "seed": 7, EVIL: "<i>"}, tags={"team": EVIL}, platform=platform
        ):
            for step in range(60):
                ml.runs.log_metric(
                    "valid/loss", math.exp(-step * rate / 10) + rate / 5 + (0.03 * math.sin(step) if depth == 3 else 0), step=step
                )
                ml.runs.log_metric("roc_auc", 0.9 - math.exp(-step * rate / 4) / 3, step=step)
                ml.runs.log_metric(EVIL, math.nan if 20 < step < 30 else step * depth, step=step)
            ml.runs.log_metric("only here" if depth == 3 else "rows", 10_000 * depth)
            ml.runs.log_artifact("notes.txt", b"hello")
    with pytest.raises(ValueError, match="no"), ml.start_run("lateness", platform=platform):
        raise ValueError("no")
    return home


def mlops(home: Path, *arguments: str, code: int = 0) -> str:
    done = run_mlops(["runs", *arguments], cwd=home.parent, env=clean_environment(home))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def ids(home: Path) -> list[str]:
    return [
        run["id"] for run in json.loads(mlops(home, "list", "--where", "status = 'finished'", "--order", "params.depth", "--json", "-"))
    ]


def test_runs_are_listed_shown_and_exported(home, tmp_path) -> None:
    best = json.loads(
        mlops(home, "list", "--where", "metrics.roc_auc > 0.5 and tags.team like '<b>%'", "--order", "metrics.roc_auc desc", "--json", "-")
    )
    assert [run["params"]["depth"] for run in best] == [5, 3, 2]
    listed = mlops(home, "list", "--limit", "2", "--offset", "1")
    assert "depth 5" in listed
    assert "depth 2" not in listed
    shown = mlops(home, "show", best[0]["id"][:8])
    for text in (best[0]["id"], EVIL, "notes.txt", "text/plain", f"{0.9 - math.exp(-59 * 0.6 / 4) / 3:.5g}"):
        assert text in shown
    whole = json.loads(mlops(home, "show", best[0]["id"], "--json", "-"))
    assert whole["artifacts"][0]["name"] == "notes.txt"
    assert whole["record"]["machine"]["cpus"] >= 1
    for suffix, read in ((".csv", pl.read_csv), (".parquet", pl.read_parquet), (".ndjson", pl.read_ndjson)):
        target = tmp_path / f"runs{suffix}"
        assert "wrote 4 runs" in mlops(home, "export", str(target))
        assert read(target)["params.depth"].drop_nulls().sort().to_list() == [2, 3, 5]
    with (tmp_path / "runs.csv").open() as file:
        assert f"metrics.{EVIL}" in next(csv.reader(file))


def test_an_impossible_request_is_refused_with_a_hint(home, tmp_path) -> None:
    assert "Hint: " in mlops(home, "list", "--where", "metrics.roc_auc >", code=1)
    assert "Hint: did you mean 'roc_auc'?" in mlops(home, "list", "--order", "metrics.roc_acu desc", code=1)
    assert "no run 'zz'" in mlops(home, "show", "zz", code=1)
    assert "has no known ending" in mlops(home, "export", str(tmp_path / "runs.xls"), code=1)


def test_runs_are_compared_in_a_table(home) -> None:
    two = ids(home)[:2]
    shown = mlops(home, "compare", *two)
    assert "✓" in shown
    assert "depth" in shown
    assert "seed" not in shown
    facts = json.loads(mlops(home, "compare", *two, "--json", "-"))
    rows = {row["metric"]: row for row in facts["metrics"]}
    assert rows["roc_auc"]["best"] == [1]
    assert rows["valid/loss"]["best"] == [1]
    assert rows["rows"]["values"] == [20_000.0, None]
    assert [row["param"] for row in facts["params"] if row["differs"]] == ["depth"]


def test_the_page_of_a_comparison_in_a_browser(home, tmp_path) -> None:
    page_file = tmp_path / "comparison.html"
    mlops(home, "compare", *ids(home), "--html", str(page_file))
    text = page_file.read_text()
    assert "<b>x</b>'" not in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    with browser_page(1200, 900) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        assert asked == [page_file.as_uri()]
        assert page.locator("b").count() == 0
        assert page.title() == "3 runs of lateness"
        metric = page.locator("table.metrics tbody tr", has_text="DROP TABLE")
        assert metric.locator("th").inner_text() == f"{EVIL} ↑"
        assert (
            page.locator("table.metrics tr", has_text="valid/loss").locator("td.best").inner_text()
            == f"✓ {math.exp(-59 * 0.6 / 10) + 0.6 / 5:.5g}"
        )
        assert page.locator("table.params tr.differs th").all_inner_texts() == ["depth"]
        figures = page.locator(".curves figure")
        assert figures.locator("figcaption").all_inner_texts() == [EVIL, "roc_auc", "valid/loss"]
        assert figures.nth(0).locator("path.series").count() == 3
        for width in (400, 1200):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [figures.nth(n).bounding_box() for n in range(3)]
        assert all(box["width"] > 250 and box["height"] > 120 for box in boxes)
        page.screenshot(path=str(tmp_path / "comparison.png"), full_page=True)
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=str(tmp_path / "dark.png"), full_page=True)
