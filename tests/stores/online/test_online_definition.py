"""Lookups in the online store against the definition itself, on a quarter of a million random rows, one by one and many at once."""

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of
from mlops_assets.stores.online.lmdb_store import LmdbStore
from mlops_assets.stores.online.protocol import FRESH, Lookup
from tests.compute.features.worlds import NOTHING, World, expected, world

FEATURES = {"fixed": ("value", "half", "even", "then"), "mixed": ("value", "text", "pair", "half", "even", "then")}


def filled(store: LmdbStore, made: World, kind: str) -> None:
    view = ViewRows("v", made.rows, made.keys, "event", made.created, made.ttl, FEATURES[kind])
    store.replace("v", sort_as_of(view), join_keys=made.keys, features=view.features)


def asked(made: World) -> tuple[World, list[tuple], list[int]]:
    """Return the rows of a spine that name a time, their keys, and the times."""
    spine = made.spine.drop_nulls("t")
    named = World(made.rows, spine, made.keys, made.ttl, made.created)
    return named, list(spine.select(made.keys).iter_rows()), spine["t"].to_physical().to_list()


@pytest.mark.parametrize("kind", FEATURES)
def test_many_at_once(tmp_path, kind) -> None:
    rng, store = np.random.default_rng(12), LmdbStore(tmp_path)
    compared = 0
    for _ in range(50):
        made = world(rng, rows=int(rng.integers(1, 45)), spine=2_600)
        filled(store, made, kind)
        named, keys, at = asked(made)
        (found,) = store.reader([Lookup("v", FEATURES[kind], made.ttl)]).lookup_many([keys], at)
        values = [
            NOTHING if null else value for value, null in zip(found.values["value"].tolist(), found.nulls["value"].tolist(), strict=True)
        ]
        assert values == expected(named, as_known=True).tolist()
        compared += len(values)
    assert compared > 120_000


def test_one_by_one_with_every_type_of_feature(tmp_path) -> None:
    rng, store = np.random.default_rng(13), LmdbStore(tmp_path)
    for _ in range(12):
        made = world(rng, rows=30, spine=400)
        filled(store, made, "mixed")
        named, keys, at = asked(made)
        reader = store.reader([Lookup("v", FEATURES["mixed"], made.ttl)])
        rows = {row["value"]: row for row in made.rows.iter_rows(named=True)}
        for key, time, wanted in zip(keys, at, expected(named, as_known=True).tolist(), strict=True):
            (found,) = reader.lookup_one([key], time)
            if wanted == NOTHING:
                assert found.status is not FRESH
                assert set(found.values) == {None}
                continue
            row = rows[wanted]
            then = None if row["then"] is None else pl.Series([row["then"]]).dt.epoch("us")[0]
            assert list(found.values) == [row["value"], row["text"], row["pair"], row["half"], row["even"], then]
            assert found.age == time - pl.Series([row["event"]]).dt.epoch("us")[0]
