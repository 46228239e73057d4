"""The console keeps other origins out, shows names literally, and changes nothing."""

from datetime import UTC, datetime

import pytest

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


@pytest.mark.parametrize("page", ["0", "-1", "x", "999999999999999999999", "½"])
def test_an_odd_page_number_shows_the_first_page_or_none(empty, page: str) -> None:
    assert empty.ask(f"/runs?page={page}").status_code == 200
