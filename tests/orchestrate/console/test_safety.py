"""The console keeps other origins out, shows names literally, and changes nothing."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from mlops_assets.orchestrate.console import app, site
from mlops_assets.orchestrate.console.app import build_console
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.stores.tracker.tracker import Run

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.mark.parametrize("host", ["127.0.0.1:3001", "localhost:3001", "[::1]:3001", "192.168.0.7"])
def test_addresses_and_localhost_are_answered(empty, host: str) -> None:
    assert empty.ask("/models", host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3001", "localhost.evil.example", "127.0.0.1.evil.example"])
def test_another_name_is_refused_against_dns_rebinding(empty, host: str) -> None:
    answer = empty.ask("/", host=host)
    assert answer.status_code == 421
    assert "Models" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_get_and_head_are_answered(empty, method: str) -> None:
    assert empty.ask("/models", method).status_code == 405
    assert empty.ask("/models", "HEAD").status_code == 200


def test_headers_forbid_scripts_frames_and_other_origins(empty) -> None:
    answer = empty.ask("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self' data:")
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_names_and_queries_are_shown_literally(empty) -> None:
    run = Run(
        "a" * 32, "experiment", HOSTILE, "", datetime.now(UTC), None, None, {HOSTILE: HOSTILE}, {HOSTILE: 1.0}, {}, tags={HOSTILE: "x"}
    )
    empty.site.stores.tracker.add(run)
    for path in ("/runs", f"/runs/{run.id}", f"/runs?where={HOSTILE}", f"/models/{HOSTILE}", "/"):
        assert "<img" not in empty.ask(path).text, path


@pytest.mark.parametrize("page", ["0", "-1", "x", "999999999999999999999", "½", "9" * 5000])
def test_an_odd_page_number_shows_the_first_page_or_none(empty, page: str) -> None:
    assert empty.ask(f"/runs?page={page}").status_code == 200


@pytest.mark.parametrize("before", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "2024-01-01", "x"])
def test_a_time_that_is_none_shows_the_newest_windows(empty, before: str) -> None:
    assert "No window is reported yet" in empty.read(f"/monitors/batch_watch?before={before}")


def test_an_unexpected_error_is_logged_and_shown_with_the_headers(empty, monkeypatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("<b>odd</b>" + "x" * 9000)

    monkeypatch.setitem(app.PAGES, "/runs", fail)
    console = build_console(empty.site)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(console), base_url="http://127.0.0.1") as client:
            return await client.get("/runs")

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert "RuntimeError: &lt;b&gt;odd" in answer.text
    assert len(answer.text) < 9000
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "a page of the console failed" in caplog.text


def test_damaged_files_of_the_home_are_named_or_skipped(empty) -> None:
    home = Path(empty.site.platform.home)
    for folder, name in (("replays/deep", "replay.json"), ("readers", "x.json")):
        (home / folder).mkdir(parents=True)
        (home / folder / name).write_text("[" * 100_000)
    assert "replay.json cannot be read (RecursionError)" in empty.read("/replays")


def make_link(path: Path, to: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)


def test_only_regular_files_of_the_home_are_served(empty, tmp_path, monkeypatch) -> None:
    home = Path(empty.site.platform.home)
    secret, pages = tmp_path / "secret", {name: home / "replays" / name / "replay.html" for name in ("a", "b", "c", "d", "e")}
    secret.write_text("top secret")
    for page in pages.values():
        page.parent.mkdir(parents=True)
        (page.parent / "replay.json").write_text("{}")
    make_link(pages["a"], secret)
    pages["b"].mkdir()
    os.mkfifo(pages["c"])
    pages["d"].write_text("a page")
    make_link(pages["e"], pages["d"])
    (home / "replays" / "f").symlink_to(tmp_path)
    for name in "abc":
        assert empty.ask(f"/replays/{name}").status_code == 404
    assert empty.read("/replays/d") == empty.read("/replays/e") == "a page"
    make_link(build_page_path(str(home), "batch_watch", "2024-03-06"), secret)
    assert empty.ask("/monitors/batch_watch/windows/2024-03-06/report").status_code == 404
    assert "not made yet" in empty.read("/monitors/batch_watch/windows/2024-03-06")
    (home / "replays" / "g").mkdir()
    (home / "replays" / "g" / "replay.json").symlink_to(secret)
    assert "top secret" not in empty.read("/replays")
    monkeypatch.setattr(site, "MAX_FILE_BYTES", 3)
    assert empty.ask("/replays/d").status_code == 404
