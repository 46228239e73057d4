"""Fill a platform for the console: ``python -m bench.projects.console_platform`` fills that of the environment."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.stores.registry.decisions import TrainingRecord
from mlops_assets.stores.tracker.run_batch import Batch
from mlops_assets.values.decisions import Decision, WindowReport
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import TimeWindow

RUNS, VERSIONS, WINDOWS, ROWS = 10_000, {"buyer": 700, "seller": 300}, 300, 500
BASE, DAY = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)
METRICS = ("roc_auc", "neg_log_loss", "accuracy", "precision", "recall")
CURVE, CURVED = 500, 20  # steps of a curve, runs with curves
GATES = ("roc_auc_at_least", "neg_log_loss_no_worse_than_champion", "enough_rows")


def main() -> None:
    """Fill the platform."""
    stores = open_stores(Platform.from_env())
    database, rng = sql.open_database(stores.platform.registry), np.random.default_rng(7)
    manifest = stores.artifacts.put(json.dumps({"steps": [{"view": "crowds"}], "libraries": {}}).encode())
    with database.write_transaction() as connection:
        _add_runs(connection, rng)
        _add_versions(connection, manifest)
    for run in range(CURVED):
        curve = [(step, 1 / (step + 1), 1_700_000_000_000_000 + step) for step in range(CURVE)]
        stores.tracker.write_batch(f"{run:032x}", Batch(points=dict.fromkeys(METRICS, curve)))
    _add_reports(stores)
    _add_tables(stores, rng)


def _add_runs(connection: sa.Connection, rng: np.random.Generator) -> None:
    libraries = {f"library-{i}": f"1.{i}.0" for i in range(120)}
    record = {
        "judged_by": ["roc_auc"],
        "libraries": libraries,
        "inputs": [{"table": "training_set/examples", "rows": 1000, "content_hash": "0" * 64}],
    }
    rows, values = [], []
    for i in range(RUNS):
        begun = BASE + timedelta(minutes=30 * i)
        facts = {"id": f"{i:032x}", "model": "buyer" if i % 3 else "seller", "fingerprint": f"{i:064x}", "dagster_run_id": f"{i:036x}"}
        times = {"started_at": begun.isoformat(), "ended_at": (begun + timedelta(minutes=3)).isoformat()}
        params = {"C": float(i % 17), "depth": i % 9, "solver": "lbfgs", "max_iter": 100 + i % 5, "seed": i}
        rows.append(
            facts | times | {"snapshot": 1, "params": params, "record": record, "kind": "training", "name": "", "status": "finished"}
        )
        scores = rng.random(len(METRICS))
        values += [
            {"run_id": facts["id"], "name": name, "value": float(x), "text": "", "low": float(x), "high": float(x)}
            for name, x in zip(METRICS, scores, strict=True)
        ]
    connection.execute(schema.runs.insert(), rows)
    connection.execute(schema.metrics.insert(), values)


def _add_versions(connection: sa.Connection, manifest: str) -> None:
    for model, count in VERSIONS.items():
        numbers = range(1, count + 1)
        made = [(BASE + number * DAY).isoformat() for number in numbers]
        digests = [f"{model}{number:058d}" for number in numbers]
        versions = [
            {"model": model, "version": n, "digest": digest, "run_id": f"{n:032x}", "artifact": manifest, "snapshot": 1, "created_at": at}
            for n, digest, at in zip(numbers, digests, made, strict=True)
        ]
        connection.execute(schema.versions.insert(), versions)
        judged: dict[str, Any] = {
            "environment": "dev",
            "model": model,
            "definition": "x",
            "relative": False,
            "champion": "",
            "passed": True,
        }
        gates = [
            judged | {"digest": digest, "gate": gate, "value": 0.8, "threshold": 0.6, "reason": "0.8 ≥ 0.6"}
            for digest in digests
            for gate in GATES
        ]
        connection.execute(schema.evidence.insert(), gates)
        moves = [
            {"environment": "dev", "model": model, "alias": "champion", "version": n, "previous": n - 1 or None, "kind": "promotion"}
            | {
                "actor": "bench",
                "reason": "better",
                "evidence": [{"gate": gate, "passed": True, "reason": "0.8 ≥ 0.6"} for gate in GATES],
                "at": at,
            }
            for n, at in zip(numbers, made, strict=True)
        ]
        connection.execute(schema.alias_log.insert(), moves)
        connection.execute(schema.aliases.insert().values(environment="dev", model=model, alias="champion", version=count))


def _add_reports(stores: Stores) -> None:
    reports = [
        WindowReport(
            f"{BASE + day * DAY:%Y-%m-%d}",
            BASE + (day + 1) * DAY,
            1 + day // 10,
            "breach" if day % 20 == 19 else "good",
            kind,
            "as measured",
        )
        for day in range(WINDOWS)
        for kind in ("performance", "drift")
    ]
    stores.decisions.record_reports("watch", "buyer", reports)
    for report in (r for r in reports if r.state == "breach" and r.kind == "performance"):
        decision = Decision(
            f"decision{report.partition}", "buyer", report.version, report.partition, report.end, "breach", (report.partition,)
        )
        stores.decisions.open("watch", decision)
        stores.decisions.close(decision.id, "a candidate was promoted")
        stores.decisions.record_training(
            TrainingRecord("buyer", f"run{report.partition}", decision.id, report.end, report.version, "promoted")
        )


def _add_tables(stores: Stores, rng: np.random.Generator) -> None:
    starts = pl.Series([BASE + day * DAY for day in range(WINDOWS)], dtype=pl.Datetime("us", "UTC"))
    at = [start + timedelta(minutes=i) for start in starts for i in range(ROWS)]
    size = len(at)
    visits = pl.DataFrame(
        {
            "id": [str(i) for i in range(size)],
            "at": pl.Series(at, dtype=pl.Datetime("us", "UTC")),
            "shop": [f"shop {i % 40}" for i in range(size)],
            "price": rng.normal(size=size),
            "visitors": rng.normal(size=size),
            "bought": rng.random(size) < 0.5,
        }
    )
    figures = pl.DataFrame(
        {
            "window_start": starts,
            "version": [1] * WINDOWS,
            "state": ["good"] * WINDOWS,
            "predicted": [ROWS] * WINDOWS,
            "labelled": [ROWS] * WINDOWS,
        }
    )
    performance = figures.with_columns(
        metric=pl.lit("roc_auc"), value=rng.random(WINDOWS), low=0.1, high=0.9, reference=0.8, problem=pl.lit("")
    )
    columns = pl.DataFrame({"column": [f"column {i}" for i in range(20)], "severity": rng.random(20)})
    drift = figures.select("window_start", "version", rows=pl.col("predicted")).join(columns, how="cross")
    drift = drift.with_columns(
        kind=pl.lit("number"), statistic=pl.lit("psi"), drifted=pl.col("severity") > 0.95, why=pl.lit(""), value=0.1, threshold=0.2
    )
    parts = [Partition(f"{start:%Y-%m-%d}", TimeWindow(start, start + DAY)) for start in starts]
    for table, frame, time in (
        ("dataset/visits", visits, "at"),
        ("features/crowds", visits.drop("id", "bought"), "at"),
        ("performance_report/watch", performance, "window_start"),
        ("drift_report/watch", drift, "window_start"),
    ):
        stores.lake.write(table, frame, parts, event_timestamp=time)


if __name__ == "__main__":
    main()
