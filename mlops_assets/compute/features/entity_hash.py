"""Hash entities to values that are the same on every machine and with every library version.

This module defines the hashed bytes: integers and times as 64-bit integers, floats as IEEE doubles with one zero and one NaN,
text as UTF-8 with its length. The finaliser of SplitMix64 mixes these bytes (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEED = np.uint64(0x9E3779B97F4A7C15)
_LONG = 128  # bytes; longer texts are hashed one by one, because the longest text decides the width of the array


def hash_entities(keys: pl.DataFrame) -> np.ndarray:
    """Return a 64-bit hash of each row.

    Parameters
    ----------
    keys
        Join keys of integers, floats, booleans, times or text, without nulls.

    Returns
    -------
    numpy.ndarray
        The hashes, uint64, shape (rows,).
    """
    result: np.ndarray = np.full(keys.height, _SEED, dtype=np.uint64)
    for series in keys:
        result = _mix_bits(result ^ _encode_words(series)) + _SEED
    return result


def _mix_bits(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _encode_words(series: pl.Series) -> np.ndarray:
    """Return one 64-bit word for each value."""
    if series.dtype == pl.String:
        return _hash_texts(series.to_list())
    physical = series.to_physical()
    if physical.dtype.is_float():
        values: np.ndarray = physical.cast(pl.Float64).to_numpy() + 0.0
        values[np.isnan(values)] = np.nan
        return values.view(np.uint64)
    if physical.dtype == pl.UInt64:
        return physical.to_numpy().copy()
    return physical.cast(pl.Int64).to_numpy().view(np.uint64)


def _hash_texts(values: Sequence[str]) -> np.ndarray:
    """Return one 64-bit word for each text: a hash of its length and UTF-8 bytes."""
    encoded = [value.encode() for value in values]
    sizes = np.array([len(value) for value in encoded], dtype=np.uint64)
    width = -(-min(int(sizes.max(initial=1)), _LONG) // 8) * 8 or 8
    padded = np.array([value if len(value) <= _LONG else b"" for value in encoded], dtype=f"S{width}")
    result = sizes.copy()
    for start, word in enumerate(padded.view("<u8").reshape(len(encoded), width // 8).T):
        longer = sizes > 8 * start  # the hash must not depend on the length of other values
        result[longer] = _mix_bits(result[longer] ^ word[longer]) + _SEED
    for index in np.flatnonzero(sizes > _LONG):
        result[index] = int.from_bytes(hashlib.blake2b(encoded[index], digest_size=8).digest(), "little")
    return result
