"""Whether our project and the script left the same rows, features, splits and metrics."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from bench.projects.project_ours import defs, deliveries, lateness, orders, shop_delays  # noqa: F401  (the project)
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform


def compare(folder: str) -> str:
    """Return what both left as JSON; raise AssertionError where it differs."""
    at, script = open_stores(Platform.from_env()), Path(folder)
    theirs = pl.read_parquet(script / "orders" / "*.parquet").sort("placed_at")
    mine = at.lake.read(orders.key).sort("placed_at")
    assert_frame_equal(mine.select(theirs.columns), theirs)
    view = pl.read_parquet(script / "shop_delays.parquet").sort("shop", "as_of")
    assert_frame_equal(at.lake.read(shop_delays.key).sort("shop", "as_of").select(view.columns), view)
    learned = pl.read_parquet(script / "deliveries.parquet")
    stored = at.lake.read(deliveries.key).sort("placed_at")
    split = next(name for name in stored.columns if name.endswith("split"))
    assert_frame_equal(stored.rename({split: "split"}).select(learned.columns), learned)
    expected = json.loads((script / "metrics.json").read_text(encoding="utf-8"))
    version = at.registry.champion(lateness.name)
    assert version is not None, "there is no champion"
    reached = at.tracker.get(version.run_id).metrics
    differing = {name: (reached[name], value) for name, value in expected.items() if abs(reached[name] - value) > 1e-9}
    assert not differing, f"other metrics: {differing}"
    return json.dumps(
        {"rows": f"{mine.height:,}", "rows of the view": f"{view.height:,}", "training rows": f"{(learned['split'] == 'train').sum():,}"}
        | {name: f"{value:.6f}" for name, value in expected.items()}
    )
