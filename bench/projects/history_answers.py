"""What is right, and who says otherwise: ``python -m bench.projects.history_answers``, in our environment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.projects import history_data
from bench.projects.history_data import ALL, CREATED, EVENT, KEY, ROW, TIME, TTL, VIEWS, find_view_file, names, spine_file
from bench.worker import serve


def make(folder: str, spine: int, rows: int) -> dict[str, Any]:
    """Write the files of one size."""
    history_data.make(Path(folder), spine, rows)
    return {"rows": [pl.scan_parquet(find_view_file(Path(folder), view)).select(pl.len()).collect().item() for view in range(VIEWS)]}


def by_definition(folder: str, known: bool, sample: int) -> pl.DataFrame:
    """Return some rows of the spine with their features, found one by one as the definition says."""
    spine = pl.read_parquet(spine_file(Path(folder)))
    spine = spine[np.random.default_rng(5).permutation(spine.height)[:sample]].sort(ROW)
    columns = [_found(pl.read_parquet(find_view_file(Path(folder), view)), spine, names(view), known) for view in range(VIEWS)]
    return pl.concat([spine, *columns], how="horizontal")


def _found(rows: pl.DataFrame, spine: pl.DataFrame, features: list[str], known: bool) -> pl.DataFrame:
    rows = rows.filter(pl.col(KEY).is_in(spine[KEY].unique().implode()))
    held = {key: part for (key,), part in rows.partition_by(KEY, as_dict=True).items()}
    times = {k: (p[EVENT].to_physical().to_numpy(), p[CREATED].to_physical().to_numpy()) for k, p in held.items()}
    ttl = TTL // timedelta(microseconds=1)
    answers = []
    for key, t in zip(spine[KEY], spine[TIME].to_physical(), strict=True):
        best = None
        for index, (event, created) in enumerate(zip(*times.get(key, ((), ())), strict=True)):
            if event <= t and (created <= t or not known) and (best is None or (event, created) > best[:2]):
                best = (event, created, index)
        answers.append(
            dict.fromkeys(features) if best is None or t - best[0] > ttl else held[key].select(features).row(best[2], named=True)
        )
    return pl.DataFrame(answers, schema=rows.select(features).schema)


def compare(wanted: str, got: str) -> dict[str, Any]:
    """Return how many rows of an answer are lost, given twice, or hold a wrong value; how many values are wrong, and the first."""
    one, other = (
        pl.read_parquet(wanted, columns=[ROW, *ALL]).cast(dict.fromkeys(ALL, pl.Float64)),
        pl.read_parquet(got, columns=[ROW, *ALL]),
    )
    other = other.cast({ROW: pl.Int64, **dict.fromkeys(ALL, pl.Float64)}).with_columns(pl.col(ALL).fill_nan(None))
    other = other.join(one.select(ROW), on=ROW, how="semi")
    twice = other.height - other[ROW].n_unique()
    other = other.unique(ROW, keep="first")
    both = one.join(other, on=ROW, how="inner", suffix="_got")
    wrong = both.select(ROW, *(pl.col(name).ne_missing(pl.col(f"{name}_got")).alias(name) for name in ALL))
    bad = wrong.filter(pl.any_horizontal(ALL))
    first = None if bad.is_empty() else str(both.filter(pl.col(ROW) == bad[ROW].min()).row(0, named=True))
    values = int(wrong.select(pl.sum_horizontal(pl.col(ALL).sum())).item())
    return {"lost": one.height - other.height, "twice": twice, "wrong_rows": bad.height, "wrong": values, "first": first}


def define(folder: str, known: bool, sample: int, answer: str) -> dict[str, Any]:
    """Write the answer for some rows of the spine."""
    frame = by_definition(folder, known, sample)
    frame.write_parquet(answer)
    return {"rows": frame.height, "found": frame.height * len(ALL) - sum(frame.select(ALL).null_count().row(0))}


if __name__ == "__main__":
    serve({"make": make, "define": define, "compare": compare})
