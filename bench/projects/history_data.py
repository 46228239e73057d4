"""The history of the point-in-time benchmarks: three views of five features, and a spine; Parquet files, the same for all.

Peers' environments import the names alone. Rows lie in the order of their events, as a log has them. Of each view some 2 % of the
rows share key and event time with another and were created later, 10 % were created up to three days late, 2 % of the values are
null. Of the spine 2 % ask for exactly the time of a row or for exactly the end of its ttl, and 0.5 % for entities that do not exist.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

ENTITIES, VIEWS, FEATURES = 10_000, 3, 5
BEGIN, DAYS = datetime(2025, 1, 1, tzinfo=UTC), 365
TTL = timedelta(days=7)
SECOND, DAY = 1_000_000, 86_400_000_000
ROW, KEY, TIME, EVENT, CREATED = "row", "entity", "event_timestamp", "event", "created"


def names(view: int) -> list[str]:
    """Return the features of a view: four floats and a whole number."""
    return [f"f{view}_{i}" for i in range(FEATURES)]


ALL = [name for view in range(VIEWS) for name in names(view)]


def spine_file(folder: Path) -> Path:
    """Return where the spine lies."""
    return folder / "spine.parquet"


def find_view_file(folder: Path, view: int) -> Path:
    """Return where the rows of a view lie."""
    return folder / f"view{view}.parquet"


def view_rows(view: int, rows: int, day: int | None = None):
    """Return the rows of a view as a polars frame: of the whole year, or as many as a year has, of one day."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng([view, rows, day or 0])
    count = rows if day is None else rows // DAYS
    first, span = (0, DAYS) if day is None else (day, 1)
    entity = rng.integers(0, ENTITIES, count)
    event = first * DAY + rng.integers(0, span * DAY // SECOND, count) * SECOND
    late = np.where(rng.random(count) < 0.1, rng.integers(1, 3 * 86_400, count) * SECOND, 0)
    if tied := count // 50:
        copied = rng.integers(tied, count, tied)
        entity[:tied], event[:tied] = entity[copied], event[copied]
        late[:tied] = late[copied] + rng.integers(1, 86_400, tied) * SECOND + np.arange(1, tied + 1)
    values = [rng.integers(0, 10**6, count) if i == FEATURES - 1 else rng.random(count) for i in range(FEATURES)]
    columns = {
        name: pl.select(pl.when(pl.lit(pl.Series(rng.random(count) >= 0.02))).then(pl.lit(pl.Series(value)))).to_series()
        for name, value in zip(names(view), values, strict=True)
    }
    frame = pl.DataFrame({KEY: entity, EVENT: _times(event), CREATED: _times(event + late), **columns})
    return frame.unique([KEY, EVENT, CREATED], keep="first", maintain_order=True).sort(EVENT, maintain_order=True)


def spine_rows(rows: int, view):
    """Return a spine as a polars frame; ``view`` is the frame of a view whose times it meets now and then."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng([99, rows])
    entity, at = rng.integers(0, ENTITIES, rows), rng.integers(0, DAYS * DAY // SECOND, rows) * SECOND
    met = rng.permutation(rows)[: rows // 50]
    hit = rng.integers(0, view.height, len(met))
    beginning = int(BEGIN.timestamp()) * SECOND
    times = [view[name].to_physical().to_numpy()[hit] - beginning for name in (EVENT, CREATED)]
    ends = times[0] + TTL // timedelta(microseconds=1)
    entity[met] = view[KEY].to_numpy()[hit]
    at[met] = np.choose(np.arange(len(met)) % 4, [times[0], times[1], ends, ends + 1])
    entity[rng.permutation(rows)[: rows // 200]] += ENTITIES
    return pl.DataFrame({ROW: np.arange(rows), KEY: entity, TIME: _times(at)})


def make(folder: Path, spine: int, rows: int) -> None:
    """Write the files of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    for view in range(VIEWS):
        frame = view_rows(view, rows)
        frame.write_parquet(find_view_file(folder, view))
        if view == 0:
            spine_rows(spine, frame).write_parquet(spine_file(folder))


def _times(offsets):
    import polars as pl

    return pl.Series(offsets + int(BEGIN.timestamp()) * SECOND).cast(pl.Datetime("us", "UTC"))


def memory() -> dict[str, int]:
    """Return what this process takes now and took at most, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmHWM", "VmRSS"))}
    return {"peak": found["VmHWM"], "now": found["VmRSS"]}
