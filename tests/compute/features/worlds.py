"""Random worlds of feature rows and spines, and what the definition of the point-in-time join says of them.

The oracle compares every row of the spine with every row of the view, as the definition reads; it shares no code with the engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

UTC_TIME = pl.Datetime("us", "UTC")
START = 1_710_000_000_000_000  # µs; a day in March 2024
UNIT = 1_000_000
NOTHING = -1


@dataclass(frozen=True)
class World:
    """Rows of one view, a spine, and how they are joined; ``entity`` and times are numbers, a null is ``NOTHING``."""

    rows: pl.DataFrame
    spine: pl.DataFrame
    keys: tuple[str, ...]
    ttl: timedelta | None
    created: str | None


def world(rng: np.random.Generator, *, rows: int, spine: int) -> World:
    """Return a world with ties, late rows, unknown entities, repeated spine rows, null keys and null times, in no order."""
    keys = ("k", "j") if rng.random() < 0.5 else ("k",)
    span = int(rng.integers(3, 40))
    event = rng.integers(0, span, rows)
    late = rng.choice([0, 0, 0, 1, 2, 5, -1], rows)
    table = pl.DataFrame(
        {
            "k": _key(rng, rows, 4),
            "j": rng.integers(0, 3, rows),
            "event": _times(event),
            "created": _times(event + late),
        },
        schema_overrides={"k": pl.String, "j": pl.Int64, "event": UTC_TIME, "created": UTC_TIME},
    )
    created = "created" if rng.random() < 0.8 else None
    unique = [*keys, "event", *(["created"] if created else [])]
    table = table.unique(unique, keep="first", maintain_order=True)
    table = table.with_columns(value=pl.Series(rng.permutation(table.height), dtype=pl.Int64))
    table = table.with_columns(
        text=pl.format("№{}", "value"),
        pair=pl.concat_list("value", pl.col("value") + 1),
        half=pl.when(pl.col("value") % 5 > 0).then(pl.col("value") / 2),
        even=pl.col("value") % 2 == 0,
        then=pl.from_epoch(pl.col("value"), time_unit="s").dt.replace_time_zone("UTC").cast(UTC_TIME),
    )
    if rng.random() < 0.3:
        table = pl.concat([table, table.sample(min(3, table.height), seed=1)])  # the same row twice is one row
    at = rng.integers(-2, span + 8, spine)
    left = pl.DataFrame(
        {"k": _key(rng, spine, 6), "j": rng.integers(0, 4, spine), "t": _times(at)}, schema_overrides={"k": pl.String, "t": UTC_TIME}
    )
    left = left.with_columns(t=pl.when(pl.Series(rng.random(spine) > 0.03)).then("t"), row=pl.int_range(spine))
    ttl = [None, timedelta(0), timedelta(seconds=int(rng.integers(1, 10)))][int(rng.integers(0, 3))]
    return World(table, left, keys, ttl, created)


def expected(world: World, *, as_known: bool, known_by: int | None = None) -> np.ndarray:
    """Return the ``value`` that each row of the spine finds; ``NOTHING`` where it finds none. ``known_by``: seconds since ``START``."""
    rows, spine = world.rows.unique(maintain_order=True), world.spine
    event, made = (_numbers(rows[name]) for name in ("event", world.created or "event"))
    at = _numbers(spine["t"])[:, None]
    same = np.ones((spine.height, rows.height), dtype=bool)
    for key in world.keys:
        left, right = spine[key].to_numpy(), rows[key].to_numpy()
        same &= (left[:, None] == right[None, :]) & np.array([value is not None for value in spine[key].to_list()])[:, None]
    counts = same & (event[None, :] <= at)
    if as_known:
        counts &= made[None, :] <= at
    if known_by is not None:
        limit = START + known_by * UNIT
        counts &= (made[None, :] <= limit) & (event[None, :] <= limit)
    # The greatest event, and among equals the latest created: one number that orders both.
    rank = np.empty(rows.height, dtype=np.int64)
    rank[np.lexsort((made, event))] = np.arange(rows.height)
    best = np.where(counts, rank[None, :], -1)
    winner = best.argmax(axis=1) if rows.height else np.zeros(spine.height, dtype=int)
    found = best.max(axis=1, initial=-1) >= 0
    if world.ttl is not None and rows.height:
        found &= at[:, 0] - event[winner] <= world.ttl // timedelta(microseconds=1)
    return np.where(found, rows["value"].to_numpy()[winner] if rows.height else NOTHING, NOTHING)


FEATURES = ("value", "text", "pair", "half", "even", "then")


def agrees(joined: pl.DataFrame, world: World, wanted: np.ndarray) -> bool:
    """Return whether a joined spine is what the definition says: every row once, in order, and every feature that of the row found."""
    of = world.rows.unique(maintain_order=True)
    answer = pl.DataFrame({"value": wanted}).join(of.select(FEATURES).unique("value"), on="value", how="left", maintain_order="left")
    answer = answer.with_columns(value=pl.when(pl.col("value") != NOTHING).then("value"))
    return joined.select(world.spine.columns).equals(world.spine) and joined.select(FEATURES).equals(answer.select(FEATURES))


def _key(rng: np.random.Generator, count: int, kinds: int) -> list[str | None]:
    names = [f"entity {i}" for i in range(kinds)]
    return [None if n == kinds else names[n] for n in rng.choice(kinds + 1, count, p=[*[0.98 / kinds] * kinds, 0.02]).tolist()]


def _times(seconds: np.ndarray) -> list[object]:
    return pl.Series(START + seconds * UNIT, dtype=pl.Int64).cast(UTC_TIME).to_list()


def _numbers(times: pl.Series) -> np.ndarray:
    return times.to_physical().fill_null(np.iinfo(np.int64).min).to_numpy()
