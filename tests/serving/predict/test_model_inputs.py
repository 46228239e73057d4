"""What serving looks up and computes is what training joined and computed."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.features.assemble import assemble
from mlops_assets.compute.features.on_demand import load_functions
from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of
from mlops_assets.serving.predict.model_inputs import InputBuilder
from mlops_assets.serving.predict.request_schema import EPOCH, RequestError, RequestRows
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import FRESH, MISSING, STALE, FeatureRow
from mlops_assets.stores.online.reader import to_columns

UTC_TIME = pl.Datetime("us", "UTC")
HOUR = 3_600_000_000
SOURCE = """
def ratio(share, distance, at):
    return {"share_per_mile": share / (distance + 1.0), "hour": at.astype("datetime64[h]").astype(int) % 24}

def loud(share_per_mile, wet):
    return {"loud": (share_per_mile > 0.001) | (wet == True)}
"""
FIELDS = [
    {"name": "at", "type": "datetime", "nullable": False, "role": "time"},
    {"name": "carrier", "type": "str", "nullable": True, "role": "join_key"},
    {"name": "stop", "type": "int", "nullable": True, "role": "join_key"},
    {"name": "distance", "type": "int", "nullable": True, "role": "column"},
    {"name": "wet", "type": "bool", "nullable": True, "role": "input"},
]
VIEWS = {"one": (("carrier",), ("share", "word")), "two": (("carrier", "stop"), ("delay",))}
TYPES = {
    "share": "Float64",
    "word": "String",
    "delay": "Int64",
    "share_per_mile": "Float64",
    "hour": "Int64",
    "loud": "Boolean",
    "distance": "Int64",
}


def manifest(ttl: float | None = 7200.0, defaults=None) -> dict:
    steps = [
        {"view": name, "join_keys": list(keys), "features": list(features), "ttl": ttl, "defaults": defaults or {}}
        for name, (keys, features) in VIEWS.items()
    ]
    steps += [
        {"function": "ratio", "parameters": ["share", "distance", "at"]},
        {"function": "loud", "parameters": ["share_per_mile", "wet"]},
    ]
    return {"columns": list(TYPES), "types": TYPES, "request": FIELDS, "steps": steps, "event_timestamp": "at"}


def functions():
    return load_functions(SOURCE, ["ratio", "loud"])


class Store:
    """An online store of tuples, by the rule in words."""

    def __init__(self, rows: dict[str, list[tuple]]) -> None:
        self.rows = rows

    def reader(self, lookups):
        return TupleReader(self.rows, lookups)


class TupleReader:
    def __init__(self, rows, lookups) -> None:
        self.rows, self.lookups = rows, lookups

    def lookup_one(self, keys, at):
        return [self._found(lookup, key, at) for lookup, key in zip(self.lookups, keys, strict=True)]

    def lookup_many(self, keys, at):
        found = [[self._found(lookup, *row) for row in zip(each, at, strict=True)] for lookup, each in zip(self.lookups, keys, strict=True)]
        return [to_columns(rows, dict.fromkeys(lookup.features, "")) for lookup, rows in zip(self.lookups, found, strict=True)]

    def _found(self, lookup, key, at):
        fitting = [r for r in self.rows.get(lookup.view, []) if r[0] == key and r[1] <= at and None not in key]
        nothing = (None,) * len(lookup.features)
        if not fitting:
            return FeatureRow(nothing, MISSING, None)
        _, event, values = max(fitting, key=lambda r: r[1])
        stale = lookup.ttl is not None and timedelta(microseconds=at - event) > lookup.ttl
        return FeatureRow(nothing, STALE, at - event) if stale else FeatureRow(values, FRESH, at - event)


HOURS = st.integers(0, 12).map(lambda h: h * HOUR)
KEY_ONE = st.tuples(st.sampled_from(["AA", "B6"]))
KEY_TWO = st.tuples(st.sampled_from(["AA", "B6"]), st.integers(0, 1))
VALUES_ONE = st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.one_of(st.none(), st.sampled_from(["x", "y"])))
VALUES_TWO = st.tuples(st.one_of(st.none(), st.integers(-5, 5)))
REQUEST = st.fixed_dictionaries(
    {
        "at": st.integers(0, 14).map(lambda h: h * HOUR),
        "carrier": st.sampled_from(["AA", "B6", "ZZ", None]),
        "stop": st.sampled_from([0, 1, 2, None]),
        "distance": st.one_of(st.none(), st.integers(0, 3000)),
        "wet": st.one_of(st.none(), st.booleans()),
    }
)


def plain(values) -> list:
    """A matrix knows no difference between null and NaN."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def rows_of(requests: list[dict]) -> RequestRows:
    return RequestRows(len(requests), {f["name"]: [r[f["name"]] for r in requests] for f in FIELDS}, [r["at"] for r in requests])


def spine_of(requests: list[dict]) -> pl.DataFrame:
    types = {"at": UTC_TIME, "carrier": pl.String, "stop": pl.Int64, "distance": pl.Int64, "wet": pl.Boolean}
    return pl.DataFrame([pl.Series(name, [r[name] for r in requests], dtype=dtype) for name, dtype in types.items()])


def view_of(name: str, rows: dict, ttl: timedelta | None) -> ViewRows:
    keys, features = VIEWS[name]
    types = {"carrier": pl.String, "stop": pl.Int64, "as_of": UTC_TIME, "share": pl.Float64, "word": pl.String, "delay": pl.Int64}
    columns = (
        dict(zip((*keys, "as_of", *features), zip(*((*k, t, *v) for (k, t), v in rows.items()), strict=True), strict=True)) if rows else {}
    )
    frame = pl.DataFrame([pl.Series(n, columns.get(n, []), dtype=types[n]) for n in (*keys, "as_of", *features)])
    return ViewRows(name, frame, keys, "as_of", None, ttl, features)


@settings(max_examples=60, deadline=None)
@given(
    one=st.dictionaries(st.tuples(KEY_ONE, HOURS), VALUES_ONE, max_size=12),
    two=st.dictionaries(st.tuples(KEY_TWO, HOURS), VALUES_TWO, max_size=12),
    requests=st.lists(REQUEST, min_size=1, max_size=6),
    ttl=st.sampled_from([None, timedelta(hours=2), timedelta(0)]),
)
def test_serving_makes_what_training_made(tmp_path_factory, one, two, requests, ttl) -> None:
    views = [view_of("one", one, ttl), view_of("two", two, ttl)]
    expected, _ = assemble(spine_of(requests), [*views, *functions()], event_timestamp="at", as_known=True)
    store = open_online(str(tmp_path_factory.getbasetemp() / "online"))
    for view in views:
        store.replace(view.name, sort_as_of(view), join_keys=view.join_keys, features=view.features)
    made = InputBuilder(manifest(None if ttl is None else ttl.total_seconds()), functions(), store)(rows_of(requests))
    for name, column in zip(TYPES, made.columns, strict=True):
        wanted = expected[name].to_list()
        assert plain(column) == plain(wanted), name
    lookup_count = [f for _, features in VIEWS.values() for f in features]
    assert made.missing == [[f for f in lookup_count if expected[f][i] is None] for i in range(len(requests))]


REQUESTED = {"at": 5 * HOUR, "carrier": "AA", "stop": 0, "distance": 9, "wet": False}


def test_ttl_is_inclusive_to_the_microsecond() -> None:
    store = Store({"one": [(("AA",), 3 * HOUR, (0.5, "x"))], "two": [(("AA", 0), 3 * HOUR, (1,))]})
    build = InputBuilder(manifest(), functions(), store)
    assert build(rows_of([REQUESTED])).missing == [[]]
    assert build(rows_of([REQUESTED | {"at": 5 * HOUR + 1}])).missing == [["share", "word", "delay"]]


def test_a_missing_feature_takes_its_default_and_is_named_and_so_is_a_nan() -> None:
    store = Store({"one": [(("AA",), HOUR, (float("nan"), None))]})
    made = InputBuilder(manifest(None, {"share": 0.25, "delay": 3}), functions(), store)(rows_of([REQUESTED]))
    assert made.missing == [["share", "word", "delay"]]
    assert [column[0] for column in made.columns[:3]] == [0.25, None, 3]


def test_a_null_join_key_is_looked_up_nowhere() -> None:
    store = Store({"one": [((None,), HOUR, (0.5, "x"))]})
    assert InputBuilder(manifest(None), functions(), store)(rows_of([REQUESTED | {"carrier": None}])).missing == [
        ["share", "word", "delay"]
    ]


def test_times_as_join_keys_and_as_columns(tmp_path) -> None:
    fields = [
        {"name": "at", "type": "datetime", "nullable": False, "role": "time"},
        {"name": "slot", "type": "datetime", "nullable": True, "role": "join_key"},
    ]
    step = {"view": "v", "join_keys": ["slot"], "features": ["load"], "ttl": None, "defaults": {}}
    facts = {
        "columns": ["load", "slot"],
        "types": {"load": "Float64", "slot": "Datetime(time_unit='us', time_zone='UTC')"},
        "request": fields,
        "steps": [step],
    }
    slot = datetime(2013, 4, 1, 12, tzinfo=UTC)
    micro = (slot - EPOCH) // timedelta(microseconds=1)
    view = ViewRows(
        "v",
        pl.DataFrame({"slot": [slot], "as_of": [slot], "load": [0.5]}, schema={"slot": UTC_TIME, "as_of": UTC_TIME, "load": pl.Float64}),
        ("slot",),
        "as_of",
        None,
        None,
        ("load",),
    )
    store = open_online(str(tmp_path / "online"))
    store.replace("v", sort_as_of(view), join_keys=["slot"], features=["load"])
    made = InputBuilder(facts, (), store)(RequestRows(2, {"at": [micro, micro], "slot": [micro, None]}, [micro, micro]))
    assert made.columns == [[0.5, None], [micro, None]]
    assert made.missing == [[], ["load"]]


def test_a_function_that_fails_is_named_without_its_values() -> None:
    def ratio(share, distance, at):
        raise ValueError(f"secret {distance}")

    build = InputBuilder(manifest(), (ratio, functions()[1]), Store({}))
    with pytest.raises(RequestError, match="the on-demand features 'ratio' cannot be computed") as caught:
        build(rows_of([REQUESTED | {"distance": 987_654}]))
    assert caught.value.status == 422
    assert b"987654" not in caught.value.body


def test_arrays_have_the_types_that_training_gives() -> None:
    kinds = {}

    def ratio(share, distance, at):
        kinds.update(share=share.dtype, distance=distance.dtype, at=at.dtype)
        return {"share_per_mile": np.zeros(len(at)), "hour": np.zeros(len(at), dtype=int)}

    def loud(share_per_mile, wet):
        kinds["wet"] = wet.dtype
        return {"loud": np.zeros(len(wet), dtype=bool)}

    build = InputBuilder(manifest(), (ratio, loud), Store({}))
    build(rows_of([REQUESTED]))
    assert kinds == {"share": np.float64, "distance": np.int64, "at": np.dtype("datetime64[us]"), "wet": np.bool_}
    build(rows_of([REQUESTED | {"distance": None, "wet": None}]))
    assert (kinds["distance"], kinds["wet"]) == (np.float64, np.object_)
