"""The point-in-time join against a brute-force oracle; what it refuses."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.compute.features import point_in_time
from mlops_assets.errors import DataError

BASE = datetime(2024, 3, 10, tzinfo=UTC)
TTL = timedelta(hours=3)


def oracle(spine, rows, *, keys, ttl, as_known):
    """For each spine row scan every feature row: the definition, word for word."""
    result = []
    for left in spine:
        best = None
        for row in rows:
            if left["t"] is None or any(left[k] is None or left[k] != row[k] for k in keys):
                continue
            if row["event"] > left["t"] or (as_known and row["created"] > left["t"]):
                continue
            if best is None or (row["event"], row["created"]) > (best["event"], best["created"]):
                best = row
        if best is not None and ttl is not None and left["t"] - best["event"] > ttl:
            best = None
        result.append(None if best is None else best["value"])
    return result


hours = st.integers(0, 8)
keys = st.sampled_from(["a", "b", None])
feature_rows = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([1, 2]), hours, st.integers(-2, 4)), max_size=14)
spine_rows = st.lists(st.tuples(keys, st.sampled_from([1, 2, 3]), st.one_of(st.none(), hours)), min_size=1, max_size=10)


def frames(features, spine, two_keys):
    seen, rows = set(), []
    for k, j, event, late in features:
        if (k, j if two_keys else 0, event, event + late) not in seen:  # two different rows of one key and time are refused, tested apart
            seen.add((k, j if two_keys else 0, event, event + late))
            rows.append(
                {
                    "k": k,
                    "j": j,
                    "event": BASE + timedelta(hours=event),
                    "created": BASE + timedelta(hours=event + late),
                    "value": len(rows),
                }
            )
    left = [{"k": k, "j": j, "t": None if t is None else BASE + timedelta(hours=t), "row": i} for i, (k, j, t) in enumerate(spine)]
    return left, rows


def check(module, features, spine, as_known, ttl, two_keys, created):
    left, rows = frames(features, spine, two_keys)
    names = ("k", "j") if two_keys else ("k",)
    times = pl.Datetime("us", "UTC")
    table = pl.DataFrame(rows, schema={"k": pl.String, "j": pl.Int64, "event": times, "created": times, "value": pl.Int64})
    view = module.ViewRows("v", table, names, "event", "created" if created else None, ttl, ("value",))
    if not created:
        rows = [row | {"created": row["event"]} for row in rows]
        if len({(*(row[k] for k in names), row["event"]) for row in rows}) < len(rows):
            return
    frame = pl.DataFrame(left, schema={"k": pl.String, "j": pl.Int64, "t": times, "row": pl.Int64})
    joined = module.point_in_time_join(frame, [view], event_timestamp="t", as_known=as_known)
    assert joined["row"].to_list() == [row["row"] for row in left]
    assert joined.columns == [*frame.columns, "value"]
    assert joined["value"].to_list() == oracle(left, rows, keys=names, ttl=ttl, as_known=as_known)


arguments = (feature_rows, spine_rows, st.booleans(), st.sampled_from([None, timedelta(0), TTL]), st.booleans(), st.booleans())


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(*arguments)
def test_equals_the_oracle(features, spine, as_known, ttl, two_keys, created) -> None:
    check(point_in_time, features, spine, as_known, ttl, two_keys, created)


def mixed_zones(rows, spine):
    return point_in_time.point_in_time_join(
        spine, [point_in_time.ViewRows("v", rows, ("k",), "event", None, None, ("value",))], event_timestamp="t"
    )


def one(time: datetime, zone: str | None = "UTC") -> pl.Series:
    naive = pl.Series([time.replace(tzinfo=None)], dtype=pl.Datetime("us"))
    return naive if zone is None else naive.dt.replace_time_zone(zone)


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_times_outside_of_utc_are_refused(zone) -> None:
    rows = pl.DataFrame({"k": ["a"], "event": one(BASE), "value": [1]})
    spine = pl.DataFrame({"k": ["a"], "t": one(BASE, zone)})
    with pytest.raises(DataError, match="not a time in UTC"):
        mixed_zones(rows, spine)
    with pytest.raises(DataError, match="feature view 'v'.*not a time in UTC"):
        mixed_zones(rows.with_columns(event=one(BASE, zone)), spine.with_columns(t=one(BASE)))


def test_keys_of_different_types_are_refused() -> None:
    rows = pl.DataFrame({"k": [1], "event": one(BASE), "value": [1]})
    with pytest.raises(DataError, match="join key 'k' is String in the spine and Int64"):
        mixed_zones(rows, pl.DataFrame({"k": ["1"], "t": one(BASE)}))


def test_two_different_rows_of_one_key_and_time_are_refused() -> None:
    rows = pl.DataFrame({"k": ["a", "a"], "event": pl.concat([one(BASE), one(BASE)]), "value": [1, 2]})
    with pytest.raises(DataError, match="different rows for {'k': 'a'}"):
        mixed_zones(rows, pl.DataFrame({"k": ["a"], "t": one(BASE)}))


def test_missing_columns_and_taken_names_are_named() -> None:
    rows = pl.DataFrame({"k": ["a"], "event": one(BASE), "value": [1]})
    with pytest.raises(DataError, match="needs the column 'k', which the spine lacks"):
        mixed_zones(rows, pl.DataFrame({"t": one(BASE)}))
    with pytest.raises(DataError, match="'value' of view 'v' is already a column"):
        mixed_zones(rows, pl.DataFrame({"k": ["a"], "t": one(BASE), "value": [3]}))
