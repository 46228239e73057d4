"""The orders of the project benchmark: one Parquet file in the order of time, the same for both contenders."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
SHOPS, CARRIERS, ZONES = 5_000, 12, ("north", "east", "south", "west")
NUMBERS = ("distance", "weight", "price", "queue", "rain")
COLUMNS = ("carrier", "zone", *NUMBERS)
VIEW_FEATURES = ("late_share_7d", "mean_delay_7d")
SPAN = timedelta(days=14)  # of validation and of holdout
LATE = 15.0  # minutes
MAX_ITER, MAX_LEAF_NODES = 50, 15
_DAY = 86_400_000_000


def source_file() -> Path:
    """Return the file with the raw rows; the environment names it."""
    return Path(os.environ["BENCH_ORDERS"])


def day_count() -> int:
    """Return the number of daily partitions; the environment names it."""
    return int(os.environ["BENCH_DAYS"])


def end_of_data() -> datetime:
    """Return the end of the last partition."""
    return FIRST_DAY + timedelta(days=day_count())


def write_orders(file: Path, rows: int, days: int) -> None:
    """Write random orders; no two are placed at the same microsecond, so that they have one order."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng([rows, days])
    placed = np.unique(rng.integers(0, days * _DAY, rows + rows // 1000 + 10))
    placed = np.sort(rng.permutation(placed)[:rows])
    numbers = {name: np.round(rng.gamma(2.0, 5.0, rows), 3) for name in NUMBERS}
    shop, carrier, zone = rng.integers(0, SHOPS, rows), rng.integers(0, CARRIERS, rows), rng.integers(0, len(ZONES), rows)
    habit = rng.normal(0, 6, SHOPS)[shop] + rng.normal(0, 3, CARRIERS)[carrier]
    delay = np.round(habit + 0.4 * numbers["distance"] + 0.6 * numbers["rain"] + rng.normal(0, 12, rows), 1)
    delivered = placed + 3_600_000_000 * rng.integers(2, 48, rows)
    frame = pl.DataFrame(
        {
            "order_id": [f"order-{number:09d}" for number in rng.permutation(rows)],
            "placed_at": _times(placed),
            "delivered_at": _times(delivered),
            "shop": [f"shop-{number:04d}" for number in shop],
            "carrier": [f"carrier-{number:02d}" for number in carrier],
            "zone": [ZONES[number] for number in zone],
            **numbers,
            "delay": delay,
        }
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(file, row_group_size=100_000)


def _times(offsets):
    import polars as pl

    return pl.Series(offsets + int(FIRST_DAY.timestamp()) * 1_000_000).cast(pl.Datetime("us", "UTC"))


def rolling_delays(orders, first: datetime, last: datetime):
    """Return each shop's deliveries of the seven days before each day in ``[first, last)``, as known at midnight."""
    import polars as pl

    day = pl.col("delivered_at").dt.truncate("1d") + timedelta(days=1)  # the midnight from which a delivery is known
    daily = orders.group_by("shop", day.alias("day")).agg(
        late=(pl.col("delay") > LATE).sum(), tenths=(pl.col("delay") * 10).round().cast(pl.Int64).sum(), count=pl.len()
    )
    shifted = [daily.with_columns(pl.col("day") + timedelta(days=days)) for days in range(7)]
    return (
        pl.concat(shifted)
        .group_by("shop", "day")
        .agg(pl.col("late", "tenths", "count").sum())
        .filter(pl.col("day").is_between(first, last, closed="left"))
        .select(
            "shop",
            pl.col("day").alias("as_of"),
            (pl.col("late") / pl.col("count")).alias("late_share_7d"),
            (pl.col("tenths") / pl.col("count") / 10).alias("mean_delay_7d"),
        )
    )


def make_estimator():
    """Return the estimator that both contenders fit."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    categories = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["carrier", "zone"]), remainder="passthrough"
    )
    return make_pipeline(categories, HistGradientBoostingClassifier(max_iter=MAX_ITER, max_leaf_nodes=MAX_LEAF_NODES, random_state=0))
