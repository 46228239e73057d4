"""The same orders without us: polars, scikit-learn and files; ``python -m bench.projects.project_script STEP FOLDER``."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl

from bench.projects import project_data as data


def write_dataset(folder: Path) -> None:
    """Read the raw rows, check what the schema says, and write one file a day."""
    rows = pl.scan_parquet(data.source_file()).filter(pl.col("placed_at").is_between(data.FIRST_DAY, data.end_of_data(), closed="left"))
    frame = rows.collect()
    assert frame["order_id"].is_unique().all()
    assert not any(frame.null_count().row(0))
    assert frame["zone"].is_in(list(data.ZONES)).all()
    assert all((frame[name] >= 0).all() for name in data.NUMBERS)
    shutil.rmtree(folder / "orders", ignore_errors=True)
    (folder / "orders").mkdir()
    days = frame.with_columns(day=pl.col("placed_at").dt.date()).partition_by("day", as_dict=True, include_key=False)
    for (day,), part in days.items():
        part.write_parquet(folder / "orders" / f"{day:%Y-%m-%d}.parquet")


def write_view(folder: Path) -> None:
    """Write each shop's last seven days."""
    orders = pl.scan_parquet(folder / "orders" / "*.parquet")
    data.rolling_delays(orders, data.FIRST_DAY, data.end_of_data()).collect().write_parquet(folder / "shop_delays.parquet")


def write_training_set(folder: Path) -> None:
    """Join each order with its shop's features as they were known, at most two days old, and split by time."""
    orders = pl.scan_parquet(folder / "orders" / "*.parquet")
    wanted = orders.select("order_id", "placed_at", "delivered_at", "shop", *data.COLUMNS, late=pl.col("delay") > data.LATE)
    view = pl.scan_parquet(folder / "shop_delays.parquet").sort("as_of")
    joined = wanted.sort("placed_at").join_asof(
        view, left_on="placed_at", right_on="as_of", by="shop", tolerance=timedelta(days=2), check_sortedness=False
    )
    end = pl.col("placed_at").max() + timedelta(microseconds=1)
    placed, known, holdout, validation = pl.col("placed_at"), pl.col("delivered_at"), end - data.SPAN, end - 2 * data.SPAN
    part = (
        pl.when(placed >= holdout)
        .then(pl.lit("holdout"))
        .when((placed >= validation) & (known < holdout))
        .then(pl.lit("validation"))
        .when((placed < validation) & (known < validation))
        .then(pl.lit("train"))
        .otherwise(pl.lit("gap"))
    )
    joined.with_columns(split=part).drop("as_of").sort("placed_at").collect().write_parquet(folder / "deliveries.parquet")


def train(folder: Path) -> None:
    """Fit, measure on the holdout, and store."""
    import skops.io
    from sklearn.metrics import log_loss, roc_auc_score

    rows = pl.read_parquet(folder / "deliveries.parquet")
    names = [*data.VIEW_FEATURES, *data.COLUMNS]
    fitted, holdout = rows.filter(pl.col("split") == "train"), rows.filter(pl.col("split") == "holdout")
    model = data.make_estimator().fit(fitted.select(names), fitted["late"].to_numpy())
    chances, truth = model.predict_proba(holdout.select(names))[:, 1], holdout["late"].to_numpy()
    metrics = {"roc_auc": roc_auc_score(truth, chances), "neg_log_loss": -log_loss(truth, chances)}
    skops.io.dump(model, folder / "model.skops")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


STEPS = {"dataset": write_dataset, "view": write_view, "training_set": write_training_set, "model": train}

if __name__ == "__main__":
    STEPS[sys.argv[1]](Path(sys.argv[2]))
