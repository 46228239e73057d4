"""Our online store: ``python -m bench.projects.online_ours URL``."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from statistics import median
from typing import Any

import polars as pl

from bench.projects.online_data import AT, ENTITIES, EVENT, VIEWS, asked, columns, entities, names
from bench.worker import serve
from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import Lookup

HISTORY = 10  # rows of an entity in the second kind of write


def view_of(number: int, rows: int = 1) -> ViewRows:
    """Return the rows of a view; earlier rows of an entity, a minute apart, repeat its values."""
    one = pl.DataFrame({"entity": entities(), **columns(number)})
    times = [pl.lit(EVENT - timedelta(minutes=i)).cast(pl.Datetime("us", "UTC")).alias("event") for i in range(rows)]
    frame = pl.concat([one.with_columns(time_) for time_ in times])
    return ViewRows(f"v{number}", frame, ("entity",), "event", None, timedelta(days=7), tuple(names(number)))


def main(url: str) -> None:
    """Answer questions."""
    store = open_online(url)
    views = {1: [view_of(v) for v in range(VIEWS)], HISTORY: [view_of(v, HISTORY) for v in range(VIEWS)]}
    layouts = {rows: [sort_as_of(view) for view in each] for rows, each in views.items()}
    reader = store.reader([Lookup(f"v{v}", tuple(names(v)), timedelta(days=7)) for v in range(VIEWS)])

    def write(how: str = "replace", rows: int = 1, layout: bool = True) -> dict[str, Any]:
        begun = time.perf_counter()
        for v in range(VIEWS):
            made = layouts[rows][v] if layout else sort_as_of(views[rows][v])
            getattr(store, how)(f"v{v}", made, join_keys=["entity"], features=names(v))
        return {"seconds": time.perf_counter() - begun, "rows": ENTITIES * VIEWS * rows}

    def reads(count: int, times: int) -> dict[str, Any]:
        spent = []
        for seed in range(times):
            keys = asked(seed, count)
            begun = time.perf_counter()
            if count == 1:
                reader.lookup_one([(keys[0],)] * VIEWS, AT)
            else:
                reader.lookup_many([[(key,) for key in keys]] * VIEWS, [AT] * count)
            spent.append(time.perf_counter() - begun)
        return {"seconds": median(spent)}

    def values(seed: int, count: int) -> dict[str, Any]:
        keys = asked(seed, count)
        one = [[value for found in reader.lookup_one([(key,)] * VIEWS, AT) for value in found.values] for key in keys]
        many = reader.lookup_many([[(key,) for key in keys]] * VIEWS, [AT] * count)
        listed = [[column.tolist()[i] for found in many for column in found.values.values()] for i in range(count)]
        if listed != one:
            raise ValueError("one by one and in columns it says different things")
        return {"values": one}

    serve({"write": write, "reads": reads, "values": values})


if __name__ == "__main__":
    main(*sys.argv[1:])
