"""Contract tests of online stores, as plain functions for your own test suite. A failed check raises AssertionError.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> from mlops_assets.stores.online.lmdb_store import LmdbStore
>>> store = LmdbStore(Path(tempfile.mkdtemp()))
>>> for check in ONLINE_STORE_CHECKS:
...     check(store)
"""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import InstallationError
from mlops_assets.stores.online.protocol import FRESH, MISSING, STALE, FeatureRow, Lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from mlops_assets.stores.online.protocol import OnlineStore

__all__ = ["ONLINE_STORE_CHECKS", "online_layout"]

_BASE = datetime(2024, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_HOURS = 3_600_000_000
_START = 1_704_067_200_000_000  # _BASE in microseconds
FactRow = tuple[str, int, int, Any]


def online_layout(rows: Sequence[FactRow], dtype: Any = None) -> pl.DataFrame:  # noqa: ANN401  (a polars type)
    """Return rows in the layout that an online store writes, with the entity key ``k`` and the feature ``value``.

    The layout is that of :func:`~mlops_assets.compute.features.point_in_time.sort_as_of`.

    Parameters
    ----------
    rows
        For each row: entity, hour of the event, hour when the event became known, and value. Hours count from the beginning of 2024 in UTC.
    dtype
        The polars type of the feature; 64-bit integers when None.
    """
    import polars as pl

    from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of

    utc = pl.Datetime("us", "UTC")
    records = [(k, _BASE + event * _HOUR, _BASE + created * _HOUR, value) for k, event, created, value in rows]
    frame = pl.DataFrame(records, schema={"k": pl.String, "event": utc, "created": utc, "value": dtype or pl.Int64}, orient="row")
    return sort_as_of(ViewRows("v", frame, ("k",), "event", "created", None, ("value",)))


class _StoreView:
    """A view with a new random name in a store, with one key and one feature; not written before the first :meth:`replace`."""

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.name = store, f"v{uuid.uuid4().hex[:12]}"
        self._reader = store.reader([Lookup(self.name, ("value",))])

    def replace(self, rows: Sequence[FactRow], dtype: Any = None, **more: Any) -> Any:  # noqa: ANN401
        return self.store.replace(self.name, online_layout(rows, dtype), join_keys=["k"], features=["value"], **more)

    def update(self, rows: Sequence[FactRow], dtype: Any = None, **more: Any) -> Any:  # noqa: ANN401
        return self.store.update(self.name, online_layout(rows, dtype), join_keys=["k"], features=["value"], **more)

    def lookup(self, entity: str | None, hour: int) -> FeatureRow:
        return self._reader.lookup_one([(entity,)], _START + hour * _HOURS)[0]

    def value(self, entity: str | None, hour: int) -> Any:  # noqa: ANN401
        return self.lookup(entity, hour).values[0]


def _check_equal(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, not {expected!r}")


def _check_refusal(call: Callable[[], object], text: str) -> None:
    """Raise AssertionError unless a call raises InstallationError with ``text`` in its message."""
    try:
        call()
    except InstallationError as error:
        if text not in error.message:
            raise AssertionError(f"the message {error.message!r} does not name '{text}'") from error
    else:
        raise AssertionError(f"no InstallationError was raised, although '{text}' is wrong")


def _expected_value(rows: Sequence[FactRow], entity: str, hour: int) -> Any:  # noqa: ANN401
    """Return the value that a lookup at an hour must find: the value of the latest event that has happened and is known at this hour.

    Of several events at the same time, the one that became known last counts. None when there is no event.
    """
    known = [(event, created, value) for k, event, created, value in rows if k == entity and event <= hour and created <= hour]
    return max(known, key=lambda row: row[:2])[2] if known else None


def _random_rows(seed: int) -> list[FactRow]:
    rng = random.Random(seed)  # noqa: S311  (not for secrets)
    keys = {(rng.choice("abcde"), event := rng.randrange(0, 24), event + rng.choice([-3, 0, 0, 1, 5])) for _ in range(40)}
    return [(*key, rng.randrange(1000)) for key in sorted(keys)]


def lookups_find_what_the_rule_finds(store: OnlineStore) -> None:
    """Check that single and batch lookups find the value that the point-in-time join gives, at every hour."""
    for seed in range(5):
        view, rows = _StoreView(store), _random_rows(seed)
        view.replace(rows)
        asked = [(k, hour) for k in "abcdef" for hour in range(-4, 32)]
        expected = [_expected_value(rows, k, hour) for k, hour in asked]
        _check_equal([view.value(k, hour) for k, hour in asked], expected, "one by one")
        reader = store.reader([Lookup(view.name, ("value",))])
        (columns,) = reader.lookup_many([[(k,) for k, _ in asked]], [_START + hour * _HOURS for _, hour in asked])
        listed = [None if null else value for value, null in zip(columns.values["value"].tolist(), columns.nulls["value"], strict=True)]
        _check_equal(listed, expected, "many at once")


def updates_in_any_order_end_alike(store: OnlineStore) -> None:
    """Check that late, repeated and unordered batches end in the same state as one replacement."""
    for seed in range(5):
        rng, rows = random.Random(seed), _random_rows(seed)  # noqa: S311
        whole, parts = _StoreView(store), _StoreView(store)
        whole.replace(rows)
        shuffled = rng.sample(rows, len(rows))
        for start in range(0, len(rows), 7):
            parts.update(shuffled[start : start + 7])
            parts.update(rng.sample(shuffled[: start + 7], min(3, start + 7)))
        for k in "abcde":
            for hour in range(-4, 32):
                _check_equal(parts.lookup(k, hour), whole.lookup(k, hour), f"{k} at {hour}")


def a_row_is_written_only_where_it_belongs(store: OnlineStore) -> None:
    """Check that a late row displaces no newer row, a repeated row changes nothing and a corrected row replaces the old one."""
    view = _StoreView(store)
    _check_equal(view.replace([("a", 5, 5, 50), ("b", 5, 5, 51)]).changed, 2, "changed by a replacement")
    _check_equal(view.update([("a", 3, 8, 30)]).changed, 0, "changed by a row that was overtaken before it was known")
    _check_equal((view.value("a", 5), view.value("a", 9)), (50, 50), "after a late row")
    _check_equal(view.update([("a", 3, 3, 31)]).changed, 1, "changed by a row of the past")
    _check_equal((view.value("a", 4), view.value("a", 9)), (31, 50), "the past and the present")
    _check_equal(view.update([("a", 5, 5, 50), ("b", 5, 5, 51)]).changed, 0, "changed by the same rows again")
    _check_equal(view.update([("b", 5, 5, 99)]).changed, 1, "changed by a correction")
    _check_equal((view.value("a", 9), view.value("b", 9)), (50, 99), "after a correction")
    view.update([("c", 20, 2, 1)])  # a forecast, and its two revisions, out of order
    view.update([("c", 20, 4, 2)])
    view.update([("c", 20, 3, 3)])
    _check_equal(view.value("c", 20), 2, "of several that were known before their time, the one known last")


def ttl_is_enforced_and_reported(store: OnlineStore) -> None:
    """Check that a row is fresh up to and including its ttl, to the microsecond, and that stale and missing rows are reported as such."""
    view = _StoreView(store)
    view.replace([("a", 5, 5, 1), ("z", 30, 30, 2)])
    reader, at = store.reader([Lookup(view.name, ("value",), 2 * _HOUR)]), _START + 7 * _HOURS
    _check_equal(reader.lookup_one([("a",)], at)[0], ((1,), FRESH, 2 * _HOURS), "at the ttl")
    _check_equal(reader.lookup_one([("a",)], at + 1)[0], ((None,), STALE, 2 * _HOURS + 1), "a microsecond later")
    _check_equal(reader.lookup_one([("z",)], at)[0], ((None,), MISSING, None), "before it was known")
    _check_equal(reader.lookup_one([("never",)], at)[0], ((None,), MISSING, None), "never seen")
    _check_equal(reader.lookup_one([(None,)], at)[0], ((None,), MISSING, None), "a null key")
    (columns,) = reader.lookup_many([[("a",), ("a",), ("z",), ("never",), (None,)]], [at, at + 1, at, at, at])
    _check_equal(columns.status.tolist(), [FRESH, STALE, MISSING, MISSING, MISSING], "status in columns")
    _check_equal(columns.age.tolist(), [2 * _HOURS, 2 * _HOURS + 1, -1, -1, -1], "age in columns")
    _check_equal(columns.nulls["value"].tolist(), [False, True, True, True, True], "nulls in columns")
    (nothing,) = store.reader([Lookup("never_written", ("value",))]).lookup_many([[("a",)]], [at])
    _check_equal((nothing.status.tolist(), nothing.nulls["value"].tolist()), ([MISSING], [True]), "a view that was never written")


def values_come_back_exactly(store: OnlineStore) -> None:
    """Check that values are returned exactly, and times as microseconds since 1970.

    Among the values are integers that floats cannot hold, NaN, null, leading zeros, microseconds, lists and embeddings.
    """
    import polars as pl

    utc, time = pl.Datetime("us", "UTC"), datetime(1931, 5, 6, 7, 8, 9, 123_457, tzinfo=UTC)
    micros = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for dtype, stored, expected in (
        (pl.Int64, [2**53 + 1, -(2**63), None], [2**53 + 1, -(2**63), None]),
        (pl.UInt64, [2**64 - 1, 0, None], [2**64 - 1, 0, None]),
        (pl.Float64, [0.1, -0.0, None], [0.1, -0.0, None]),
        (pl.Boolean, [True, False, None], [True, False, None]),
        (utc, [time, _BASE, None], [micros, _START, None]),
        (pl.String, ["007", "", None], ["007", "", None]),
        (pl.List(pl.Float32), [[0.5, 1.5], [], None], [[0.5, 1.5], [], None]),
        (pl.List(pl.Int64), [[2**53 + 1], [None, 1], None], [[2**53 + 1], [None, 1], None]),
        (pl.List(utc), [[time], [], None], [[micros], [], None]),
        (pl.Array(pl.Float64, 2), [[0.5, 1.5], [2.0, 3.0], None], [[0.5, 1.5], [2.0, 3.0], None]),
        (pl.List(pl.String), [["00", "é"], [], None], [["00", "é"], [], None]),
    ):
        view = _StoreView(store)
        view.replace([(k, 1, 1, value) for k, value in zip("abc", stored, strict=True)], dtype)
        _check_equal([view.value(k, 1) for k in "abc"], expected, f"values of {dtype}")
        (columns,) = store.reader([Lookup(view.name, ("value",))]).lookup_many([[(k,) for k in "abc"]], [_START + _HOURS] * 3)
        listed = [None if null else value for value, null in zip(columns.values["value"].tolist(), columns.nulls["value"], strict=True)]
        _check_equal(listed, expected, f"columns of {dtype}")
    view = _StoreView(store)
    view.replace([("a", 1, 1, float("nan")), ("b", 1, 1, None)], pl.Float64)
    _check_equal(repr([view.value("a", 1), view.value("b", 1)]), "[nan, None]", "NaN and null")


def entities_are_distinguished(store: OnlineStore) -> None:
    """Check that similar keys are separate entities: keys that differ only in type, length, or the boundary between two join keys."""
    import polars as pl

    name, utc = _StoreView(store).name, pl.Datetime("us", "UTC")
    for keys in (
        [("ab", "c"), ("a", "bc"), ("", "abc"), ("x" * 2000, "y"), ("x" * 2000, "z"), ("1:s", "")],
        [("a", 1), ("a", -1), ("1", 11), ("11", 1), ("é", 2**53 + 1)],
        [(True, "a"), (False, "a")],
        [(_BASE, 1), (_BASE + timedelta(microseconds=1), 1)],
        [(0.1, "a"), (0.1 + 1e-16, "b")],
    ):
        times = pl.Series([_BASE] * len(keys), dtype=utc)
        columns = {"p": [p for p, _ in keys], "q": [q for _, q in keys], "n": list(range(len(keys)))}
        layout = pl.DataFrame({**columns, "__valid_from": times, "__event": times})
        _check_equal(store.replace(name, layout, join_keys=["p", "q"], features=["n"]).entities, len(keys), "entities written")
        reader = store.reader([Lookup(name, ("n",))])
        _check_equal(
            [reader.lookup_one([key], _START)[0].values[0] for key in keys], list(range(len(keys))), f"values of {keys[0]} and others"
        )
        _check_equal(reader.lookup_one([("no one", "here")], _START)[0].status, MISSING, "an unknown entity")
    view = _StoreView(store)
    view.replace([("1", 1, 1, 10)])
    _check_equal(
        view.store.reader([Lookup(view.name, ("value",))]).lookup_one([(1,)], _START + _HOURS)[0].status,
        MISSING,
        "a number as the value of a text key",
    )


def features_are_found_by_name(store: OnlineStore) -> None:
    """Check that readers find features by name after the schema has changed, and that an error names a feature that the view lost."""
    import polars as pl

    name = _StoreView(store).name

    def write(values: dict[str, Any]) -> None:
        times = pl.Series([_BASE], dtype=pl.Datetime("us", "UTC"))
        layout = pl.DataFrame({"k": ["a"], "__valid_from": times, "__event": times, **{n: [v] for n, v in values.items()}})
        store.replace(name, layout, join_keys=["k"], features=list(values))

    write({"one": 1, "two": 2.0, "three": None})
    pair_reader, single_reader = store.reader([Lookup(name, ("two", "one"))]), store.reader([Lookup(name, ("two",))])
    third_reader = store.reader([Lookup(name, ("three",))])
    _check_equal(pair_reader.lookup_one([("a",)], _START)[0].values, (2.0, 1), "two features")
    _check_equal(single_reader.lookup_one([("a",)], _START)[0].values, (2.0,), "one feature")
    _check_equal(third_reader.lookup_one([("a",)], _START)[0].values, (None,), "a feature of nulls")
    write({"two": 4.0, "word": "w", "one": 3})
    _check_equal(pair_reader.lookup_one([("a",)], _START)[0].values, (4.0, 3), "two features of another schema")
    (columns,) = pair_reader.lookup_many([[("a",)]], [_START])
    _check_equal([columns.values[n].tolist() for n in ("two", "one")], [[4.0], [3]], "columns of another schema")
    _check_refusal(lambda: third_reader.lookup_one([("a",)], _START), "three")
    _check_refusal(lambda: third_reader.lookup_many([[("a",)]], [_START]), "three")


def several_views_are_read_at_once(store: OnlineStore) -> None:
    """Check that a lookup in several views uses the key and ttl of each view."""
    first, second = _StoreView(store), _StoreView(store)
    first.replace([("a", 1, 1, 10)])
    second.replace([("b", 1, 1, 20), ("a", 1, 1, 21)])
    reader = store.reader([Lookup(first.name, ("value",)), Lookup(second.name, ("value",), _HOUR), Lookup("never_written", ("x",))])
    at = _START + 3 * _HOURS
    _check_equal([f.status for f in reader.lookup_one([("a",), ("b",), ("a",)], at)], [FRESH, STALE, MISSING], "one entity")
    keys: list[list[tuple[Any, ...]]] = [[("a",), ("b",)], [("b",), (None,)], [("a",), ("b",)]]
    _check_equal(
        [c.status.tolist() for c in reader.lookup_many(keys, [at, at])], [[FRESH, MISSING], [STALE, MISSING], [MISSING] * 2], "two entities"
    )


def a_view_is_replaced_as_a_whole(store: OnlineStore) -> None:
    """Check that a replacement removes rows that it lacks and sets ``ViewState.mark``, and that an update without a mark keeps the mark."""
    view = _StoreView(store)
    _check_equal(store.state(view.name), None, "state before")
    view.replace([("a", 1, 1, 10), ("b", 1, 1, 20)], mark="first")
    view.update([("c", 1, 1, 30)])
    state = store.state(view.name)
    _check_equal((state and state.mark, state and state.entities), ("first", 3), "mark and entities after an update")
    view.update([], mark="second")
    _check_equal((s.mark if (s := store.state(view.name)) else ""), "second", "mark after an update with a mark")
    view.replace([("b", 1, 1, 21)], mark="third")
    _check_equal([view.value(k, 1) for k in "abc"], [None, 21, None], "values after a replacement")
    view.replace([])
    _check_equal(((s.entities, s.mark) if (s := store.state(view.name)) else ()), (0, ""), "after a replacement by no rows")
    _check_equal(view.value("b", 1), None, "a value after a replacement by no rows")


def entities_are_rebuilt_exactly(store: OnlineStore) -> None:
    """Check that rebuilt entities lose their old rows, other entities keep theirs, and the write counts each of them once."""
    view = _StoreView(store)
    view.replace([("a", 1, 1, 10), ("a", 2, 2, 11), ("b", 1, 1, 20), ("c", 1, 1, 30)])
    rebuilt = online_layout([(entity, 0, 0, 0) for entity in ("a", "b", "never stored")])
    written = view.update([("a", 1, 1, 12), ("c", 2, 2, 31)], rebuilt=rebuilt)
    _check_equal((written.rows, written.entities, written.changed), (2, 4, 3), "rows, entities and changed records of the write")
    _check_equal([view.value(k, 9) for k in "abc"], [12, None, 31], "after rebuilding a and b")
    _check_equal((s.entities if (s := store.state(view.name)) else 0), 2, "entities after rebuilding")
    written = view.update([("a", 1, 1, 12)], rebuilt=rebuilt)
    _check_equal((written.rows, written.entities, written.changed), (1, 3, 0), "rows, entities and changed records of the same write again")


def a_store_refuses_other_types(store: OnlineStore) -> None:
    """Check that rows of another type, or of a type that cannot be stored, are refused with the column's name and change nothing."""
    import polars as pl

    view = _StoreView(store)
    view.replace([("a", 1, 1, 10)])
    _check_refusal(lambda: view.update([("a", 2, 2, "ten")], pl.String), "value")
    _check_refusal(lambda: view.replace([("a", 2, 2, timedelta(1))], pl.Duration("us")), "value")
    _check_equal(view.value("a", 9), 10, "the value after the refusals")


def a_view_is_listed_until_it_is_removed(store: OnlineStore) -> None:
    """Check that a removed view is neither listed nor found, even by an open reader, and that the view can be written again."""
    remaining, removed = _StoreView(store), _StoreView(store)
    for view in (remaining, removed):
        view.replace([("a", 1, 1, 10)], mark="seen")
    reader = store.reader([Lookup(removed.name, ("value",))])
    _check_equal([f.status for f in reader.lookup_one([("a",)], _START + 2 * _HOURS)], [FRESH], "before it was removed")
    _check_equal({remaining.name, removed.name} - set(store.views()), set(), "views that were written and are not listed")
    store.remove(removed.name)
    _check_equal([name in store.views() for name in (remaining.name, removed.name)], [True, False], "whether they are listed")
    _check_equal([f.status for f in reader.lookup_one([("a",)], _START + 2 * _HOURS)], [MISSING], "after it was removed")
    _check_equal((store.state(removed.name), remaining.value("a", 2), removed.value("a", 2)), (None, 10, None), "state and values")
    removed.update([("b", 1, 1, 20)])
    _check_equal((removed.value("a", 2), removed.value("b", 2)), (None, 20), "values after it was written again")
    store.remove("never_written")


ONLINE_STORE_CHECKS: tuple[Callable[[OnlineStore], None], ...] = (
    lookups_find_what_the_rule_finds,
    updates_in_any_order_end_alike,
    a_row_is_written_only_where_it_belongs,
    ttl_is_enforced_and_reported,
    values_come_back_exactly,
    entities_are_distinguished,
    features_are_found_by_name,
    several_views_are_read_at_once,
    a_view_is_replaced_as_a_whole,
    entities_are_rebuilt_exactly,
    a_store_refuses_other_types,
    a_view_is_listed_until_it_is_removed,
)
