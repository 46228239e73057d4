"""The hash that decides where an entity's rows lie: the same for ever, whatever the type's width, and well spread."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.features.entity_hash import hash_entities

# Computed again below by a definition in plain Python; a change of any of them would make every layout on disk wrong.
FIXED = {
    "whole numbers": ({"k": [1, 2, -1, 2**62]}, [0x8310EB309AAFA835, 0x358FAF979BE1D2E3, 0x7C41D0063C1ADCD9, 0x9EE1CAA40D5A2600]),
    "text": ({"k": ["a", "", "été", "x" * 200]}, [0x549EA8209626E3E0, 0x805821F2FA6849C4, 0x246CABC6B6BB8E01, 0xA8C1F90787B7ACB4]),
    "two keys": ({"a": ["a", "b"], "b": [1, 1]}, [0xF16474395F162734, 0xC15A60CAE2405EC2]),
    "numbers": ({"k": [0.0, -0.0, 1.5, float("nan")]}, [0x805821F2FA6849C4, 0x805821F2FA6849C4, 0x26ABF51CD788E3DC, 0x2541528B1A9686D7]),
    "booleans": ({"k": [True, False]}, [0x8310EB309AAFA835, 0x805821F2FA6849C4]),
    "times": ({"k": [datetime(2024, 1, 1, tzinfo=UTC)]}, [0xA98AECBD3F6E3AD3]),
}
MASK = 2**64 - 1


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@pytest.mark.parametrize("name", FIXED)
def test_it_is_the_same_for_ever(name) -> None:
    keys, wanted = FIXED[name]
    assert hash_entities(pl.DataFrame(keys)).tolist() == wanted


def test_whole_numbers_are_splitmix_by_definition() -> None:
    seed = 0x9E3779B97F4A7C15
    assert [(mixed(seed ^ (k & MASK)) + seed) & MASK for k in (1, 2, -1, 2**62)] == FIXED["whole numbers"][1]


def test_the_width_of_a_type_does_not_matter() -> None:
    keys = pl.DataFrame({"k": [1, 2, 100]})
    for kind in (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt32, pl.UInt64):
        assert np.array_equal(hash_entities(keys.cast({"k": kind})), hash_entities(keys))
    assert hash_entities(keys.clear()).tolist() == []
    assert hash_entities(pl.DataFrame({"k": []}, schema={"k": pl.String})).tolist() == []


def test_text_does_not_depend_on_its_neighbours_and_entities_spread() -> None:
    names = [f"{i:05}" for i in range(50_000)]
    alone = hash_entities(pl.DataFrame({"k": names[:10]}))
    assert np.array_equal(alone, hash_entities(pl.DataFrame({"k": [*names[:10], "a much longer neighbour " * 4]}))[:10])
    counts = np.bincount((hash_entities(pl.DataFrame({"k": names})) % np.uint64(64)).astype(int), minlength=64)
    assert counts.min() > 650  # of 781 on average
    assert counts.max() < 920
