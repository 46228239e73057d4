"""A process that looks for what was served wrong: ``python -m bench.projects.history_skew KIND FOLDER KNOWN``.

``KIND`` is ``ours`` or ``feast-duckdb``; the log of what was served and the list of what was planted lie in the folder. ``KNOWN`` is 1
where the log is of a service that looked up what was known at the time. Of ours, ``serve`` writes both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.projects.history_data import ALL, KEY, ROW, TIME, VIEWS, memory
from bench.worker import serve as answered

Found = set[tuple[int, str]]
ONE_IN = 100_000  # values served


def log_file(folder: Path, known: bool) -> Path:
    """Return where the log lies."""
    return folder / f"served-{int(known)}.parquet"


def planted_file(folder: Path, known: bool) -> Path:
    """Return where the wrong values are listed."""
    return folder / f"planted-{int(known)}.parquet"


def serve(folder: Path, known: bool) -> dict[str, Any]:
    """Write what was served: what is right, but for one value in a hundred thousand, by the least difference that its type has."""
    import numpy as np
    import polars as pl

    from bench.projects.history_ours import ready

    frame = ready(folder, "", known)()
    cells = np.random.default_rng(3).choice(frame.height * len(ALL), max(1, frame.height * len(ALL) // ONE_IN), replace=False)
    for index, name in enumerate(ALL):
        rows = np.sort(cells[cells % len(ALL) == index] // len(ALL))
        right = frame[name].gather(rows)
        wrong = pl.Series(np.nextafter(right.to_numpy(), np.inf)) if right.dtype.is_float() else right + 1
        frame = frame.with_columns(frame[name].scatter(rows, wrong.fill_nan(None).fill_null(0).cast(right.dtype)))
    frame.write_parquet(log_file(folder, known))
    planted = pl.DataFrame({ROW: cells // len(ALL), "feature": [ALL[index] for index in cells % len(ALL)]})
    planted.write_parquet(planted_file(folder, known))
    return {"values": frame.height * len(ALL), "planted": planted.height}


def by_ours(folder: Path, known: bool) -> Callable[[], Found]:
    """Return the check: features from the layouts, compared by the function that the skew check of a service uses."""
    import polars as pl

    import mlops_assets as ml
    from bench.projects.history_ours import declared, platform_of
    from mlops_assets.compute.features.skew import find_skewed_values
    from mlops_assets.stores.platform.stores import open_stores

    served, platform, views = pl.read_parquet(log_file(folder, known)), platform_of(folder), [declared(view) for view in range(VIEWS)]

    def check() -> Found:
        open_stores(platform).__dict__.pop("layouts", None)
        offline = ml.training_frame(served.select(ROW, KEY, TIME), views, event_timestamp=TIME, as_known=known, platform=platform)
        found = find_skewed_values(served, offline, ALL)
        return set(zip(served[ROW].gather(found["row"]), found["feature"], strict=True))

    return check


def by_feast(folder: Path, known: bool) -> Callable[[], Found]:
    """Return the check that one would write: features by ``get_historical_features``, compared with pandas."""
    import pandas as pd

    from bench.projects.history_feast import opened

    served, (store, features) = pd.read_parquet(log_file(folder, known)), opened(folder, "duckdb")

    def check() -> Found:
        offline = store.get_historical_features(entity_df=served[[ROW, KEY, TIME]], features=features).to_df()
        offline = offline.set_index(ROW).reindex(served[ROW]).reset_index()
        found: Found = set()
        for name in ALL:
            one, other = served[name], offline[name]
            different = (one != other) & ~(one.isna() & other.isna())
            found.update((int(row), name) for row in served[ROW][different])
        return found

    return check


def main(kind: str, folder: str, known: str) -> None:
    """Answer questions."""
    where, checks = Path(folder), list[Callable[[], Found]]()
    make = by_ours if kind == "ours" else by_feast

    def check() -> dict[str, Any]:
        if not checks:
            checks.append(make(where, known == "1"))
        begun = time.perf_counter()
        found = checks[0]()
        spent = time.perf_counter() - begun
        planted = _planted(planted_file(where, known == "1"))
        return {"seconds": spent, "found": len(found & planted), "false": len(found - planted), "missed": len(planted - found)} | memory()

    answered({"serve": lambda: serve(where, known == "1"), "check": check})


def _planted(file: Path) -> Found:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    return set(zip(table[ROW].to_pylist(), table["feature"].to_pylist(), strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
