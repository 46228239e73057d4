"""Runs are found by filter and order as a plain scan would find them, and no text becomes SQL."""

import math
import random
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.errors import RegistryError
from mlops_assets.stores.tracker.filters import parse_condition
from mlops_assets.stores.tracker.tracker import Run, SqlTracker, open_tracker

NOW = datetime(2024, 1, 1, tzinfo=UTC)
EVIL = "<b>x</b>'; DROP TABLE mlops_runs; --"


def fill(tracker: SqlTracker, count: int = 40) -> list[Run]:
    chance, made = random.Random(1), []
    for n in range(count):
        metrics = {"auc": round(chance.random(), 1), "loss": chance.random()}
        if n % 5 == 0:
            del metrics["auc"]
        if n % 7 == 0:
            metrics["auc"] = math.nan
        if n % 4 == 0:
            metrics[EVIL] = float(n)
        params = {"depth": n % 6, "kind": chance.choice(["a", "b's"]), "fast": n % 2 == 0, 'q"uote': f"{n}"}
        if n % 3 == 0:
            params = {"depth": "deep"}
        run = Run(
            id=f"{n:032x}",
            model="m" if n % 2 else "other",
            fingerprint="",
            dagster_run_id="",
            started_at=NOW + timedelta(minutes=n),
            ended_at=NOW + timedelta(minutes=n + 1),
            snapshot=n if n % 2 else None,
            params=params,
            metrics=metrics,
            record={"large": "x" * 100},
            status="finished" if n % 3 else "failed",
            tags={"team": "x" if n % 2 else EVIL},
        )
        tracker.add(run)
        made.append(run)
    return made


@pytest.fixture
def tracker(url) -> SqlTracker:
    return open_tracker(url)


FOUND = {
    "metrics.auc > 0.5": lambda r: r.metrics.get("auc", math.nan) > 0.5,
    "metrics.auc > 0.5 and status = 'finished'": lambda r: r.metrics.get("auc", math.nan) > 0.5 and r.status == "finished",
    "not metrics.auc > 0.5": lambda r: r.metrics.get("auc", math.nan) <= 0.5,
    "metrics.auc = 'nan'": lambda r: math.isnan(r.metrics.get("auc", 0)),
    "params.depth >= 3": lambda r: r.params["depth"] != "deep" and r.params["depth"] >= 3,
    "params.depth = 'deep' or params.depth = 1": lambda r: r.params["depth"] in ("deep", 1),
    "params.kind = 'b''s'": lambda r: r.params.get("kind") == "b's",
    "params.kind in ('a', 'c') AND params.fast = TRUE": lambda r: r.params.get("kind") == "a" and r.params["fast"],
    'params."q""uote" = \'5\'': lambda r: r.params.get('q"uote') == "5",
    f'metrics."{EVIL}" >= 8': lambda r: r.metrics.get(EVIL, -1) >= 8,
    f"tags.team = '{EVIL.replace(chr(39), chr(39) * 2)}'": lambda r: r.tags["team"] == EVIL,
    "tags.team like '<b>%' and (experiment = 'm' or snapshot >= 0 or model = 'other')": lambda r: r.tags["team"] == EVIL,
    "snapshot < 10": lambda r: r.snapshot is not None and r.snapshot < 10,
    "started_at >= '2024-01-01T00:20' and not (status = 'failed')": lambda r: (
        r.started_at >= NOW + timedelta(minutes=20) and r.status != "failed"
    ),
    "params.kind = 'z' or tags.team = 'z' or metrics.loss < 0": lambda _: False,
    "": lambda _: True,
}


def test_filters_find_what_a_scan_finds(tracker) -> None:
    made = fill(tracker)
    for text, wanted in FOUND.items():
        expected = [r.id for r in reversed(made) if wanted(r)]
        assert [r.id for r in tracker.search(text)] == expected, text
        assert tracker.frame(text)["id"].to_list() == expected, text


def test_orders_and_pages_are_those_of_a_sort(tracker) -> None:
    made = list(reversed(fill(tracker)))  # newest first among equals

    def by(value, *, descending: bool = False) -> list[str]:
        has = [r for r in made if value(r) is not None and not (isinstance(value(r), float) and math.isnan(value(r)))]
        lacks = [r for r in made if r not in has]
        return [r.id for r in [*sorted(has, key=value, reverse=descending), *lacks]]

    def stable(value) -> list[str]:
        return by(lambda r: -value(r) if value(r) is not None else None)

    orders = {
        "metrics.auc": by(lambda r: r.metrics.get("auc")),
        "metrics.auc desc": stable(lambda r: r.metrics.get("auc")),
        "metrics.loss": by(lambda r: r.metrics["loss"]),
        "snapshot desc": stable(lambda r: r.snapshot),
        "started_at": [r.id for r in reversed(made)],
        "status, started_at desc": by(lambda r: r.status),
    }
    for text, wanted in orders.items():
        assert [r.id for r in tracker.search("", text, limit=100)] == wanted, text
        pages = [r.id for page in range(0, 48, 7) for r in tracker.search("", text, limit=7, offset=page)]
        assert pages == wanted, text
    numbers = [r.params["depth"] for r in tracker.search("", "params.depth desc", limit=100)]
    assert numbers[:3] == [5, 5, 5]
    assert numbers[-1] == "deep"


def test_a_frame_has_a_row_a_run_with_its_types(tracker) -> None:
    made = fill(tracker)
    frame = tracker.frame()
    assert frame["id"].to_list() == [r.id for r in reversed(made)]
    assert frame["metrics.loss"].to_list() == [r.metrics["loss"] for r in reversed(made)]
    assert frame[f"metrics.{EVIL}"].null_count() == 30
    assert frame["params.fast"].dtype == pl.Boolean
    assert frame["duration_s"].unique().to_list() == [60.0]
    assert str(frame["started_at"].dtype.time_zone) == "UTC"
    assert tracker.frame("status = 'no such'").height == 0
    assert tracker.frame(limit=3)["id"].to_list() == frame["id"].to_list()[:3]
    assert tracker.frame(limit=0).height == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metrics.auc >", "at its end"),
        ("metrics.auc > 'x' or", "at its end"),
        ("auc > 1", "at 'auc > 1'"),
        ("statu = 'x'", "Hint: did you mean 'status'? expected metrics.NAME, "),
        ("status > 3", "a text in single quotes"),
        ("snapshot = 'x'", "a number"),
        ("metrics.a > 1; DROP TABLE mlops_runs", "at '; DROP"),
        ("(status = 'x'", "at its end"),
        ("status = 'x' status", "'and', 'or' or the end"),
        ("status is null", "=, !=,"),
        ("params. > 1", "at '. > 1"),
        ("(" * 100 + "status = 'x'", "at most 40 terms"),
        ("status = 'x\0'", "without NUL"),
        ("status = 'x' or " * 400, "characters cannot be read"),
        ("started_at = ''' OR 1=1", "at '' OR"),
    ],
)
def test_filters_that_cannot_be_read_say_from_where_on(text, told, tmp_path) -> None:
    with pytest.raises(RegistryError) as caught:
        open_tracker(f"sqlite:///{tmp_path / 'r.sqlite'}").search(text)
    assert told in str(caught.value)
    assert "\nHint: " in str(caught.value)


def test_an_order_that_cannot_be_read_is_called_an_order(tmp_path) -> None:
    with pytest.raises(
        RegistryError, match="the order 'started_at dsc' cannot be read at 'dsc'\nHint: expected ',' or the end; write e.g. metrics"
    ):
        open_tracker(f"sqlite:///{tmp_path / 'r.sqlite'}").search(order_by="started_at dsc")


@pytest.mark.parametrize(
    ("where", "order_by", "message", "hint"),
    [
        ("", "metrics.lss desc", "no run found has the metric 'lss'", "did you mean 'loss'? there are metrics"),
        ("", "metrics.auc desc, lowest.lss", "no run found has the metric 'lss'", "did you mean 'loss'?"),
        ("", "params.dept", "no run found has the parameter 'dept'", "did you mean 'depth'?"),
        ("", "metrics.depth", "no run found has the metric 'depth'", "did you mean 'params.depth'?"),
        ("", "tags.tem", "no run found has the tag 'tem'", "did you mean 'team'?"),
        ("metrics.lss < 1", "", "no run recorded has the metric 'lss'", "did you mean 'loss'?"),
        ("status = 'finished' or not (highest.ac > 1)", "", "no run recorded has the metric 'ac'", "did you mean 'auc'?"),
        ("params.dpth in (1, 2)", "metrics.loss", "no run recorded has the parameter 'dpth'", "did you mean 'depth'?"),
        ("tags.zzz like 'x%'", "", "no run recorded has the tag 'zzz'", "Hint: there are tags.team"),
        ("params.depth = 'deep'", "params.kind", "no run found has the parameter 'kind'", "there are params.depth"),
    ],
)
def test_a_field_that_no_run_has_is_refused_with_the_nearest_name(where, order_by, message, hint, tracker) -> None:
    fill(tracker)
    for search in (tracker.search, tracker.frame):
        with pytest.raises(RegistryError) as caught:
            search(where, order_by, limit=5)
        assert caught.value.message == message
        assert hint in str(caught.value)


def test_a_field_is_not_refused_where_there_is_no_run_to_find(tracker) -> None:
    assert tracker.search("metrics.loss < 1", "metrics.loss desc") == []
    fill(tracker)
    assert tracker.search("status = 'pruned'", "metrics.loss desc") == []


@given(text=st.text(alphabet="abms.'\"=<>()1-; ,\0é", max_size=40) | st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_condition_or_refused(text) -> None:
    for dialect in ("sqlite", "postgresql"):
        try:
            parse_condition(text, dialect)
        except RegistryError:
            continue


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_value_is_found_as_it_is(value, tmp_path_factory) -> None:
    tracker = open_tracker(f"sqlite:///{tmp_path_factory.mktemp('any') / 'r.sqlite'}")
    plain = {"fingerprint": "", "dagster_run_id": "", "snapshot": None, "metrics": {}, "record": {}}
    tracker.add(Run("r", "m", started_at=NOW, ended_at=NOW, params={"p": value}, tags={"t": value}, **plain))
    quoted = value.replace("'", "''")
    assert len(tracker.search(f"params.p = '{quoted}' and tags.t = '{quoted}'")) == 1
