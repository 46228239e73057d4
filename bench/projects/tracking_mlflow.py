"""MLflow's tracker on SQLite: ``python -m bench.projects.tracking_mlflow FOLDER``."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from functools import cache
from typing import Any

import mlflow
import skops.io
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from bench.projects.registry_model import fitted, rows
from bench.projects.tracking_work import CURVES, PARAMS, RUNS, STEPS, timed, values
from bench.worker import serve

BATCH = 1000  # metrics of one call, MLflow's limit


def main(folder: str) -> None:  # noqa: C901, PLR0915  (one small function for each question)
    """Answer questions."""
    os.chdir(folder)  # MLflow writes artifacts below the folder it runs in
    model, example = fitted(), rows(5)
    trusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))

    def at(name: str) -> MlflowClient:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/{name}.sqlite")
        mlflow.set_experiment("bench")
        return MlflowClient()

    def log() -> str:
        client = at("one")
        with mlflow.start_run() as run:
            now = int(time.time() * 1000)
            points = [Metric(name, curve[step], now, step) for step in range(STEPS) for name, curve in CURVES.items()]
            params = [Param(name, str(value)) for name, value in PARAMS.items()]
            for begin in range(0, len(points), BATCH):
                client.log_batch(run.info.run_id, metrics=points[begin : begin + BATCH], params=params if begin == 0 else [])
            mlflow.sklearn.log_model(
                model, name="model", input_example=example, pip_requirements=["scikit-learn"], skops_trusted_types=trusted
            )
        return str(run.info.run_id)

    def log_by_defaults() -> None:
        at("one")
        with mlflow.start_run():
            mlflow.log_params(PARAMS)
            for step in range(STEPS):
                mlflow.log_metrics({name: curve[step] for name, curve in CURVES.items()}, step=step)
            mlflow.sklearn.log_model(model, name="model", input_example=example, skops_trusted_types=trusted)

    def record(times: int) -> dict[str, Any]:
        return timed(times, log)

    def defaults(times: int) -> dict[str, Any]:
        return timed(times, log_by_defaults)

    def fill() -> dict[str, Any]:
        client = at("many")
        run = client.create_run(client.get_experiment_by_name("bench").experiment_id).info.run_id
        params, metrics = values(0)
        client.log_batch(run, [Metric(k, v, 1, 0) for k, v in metrics.items()], [Param(k, str(v)) for k, v in params.items()])
        client.set_terminated(run)
        copy(f"{folder}/many.sqlite", run)
        return {}

    def top(times: int) -> dict[str, Any]:
        at("many")
        return timed(times, lambda: mlflow.search_runs(order_by=["metrics.m0 DESC"], max_results=100))

    def best(times: int) -> dict[str, Any]:
        at("many")
        return timed(times, lambda: mlflow.search_runs(filter_string="metrics.m1 > 0.5", order_by=["metrics.m0 DESC"], max_results=1))

    def everything(times: int) -> dict[str, Any]:
        at("many")
        return timed(times, lambda: mlflow.search_runs(max_results=RUNS * 2))

    def cold(number: int) -> dict[str, Any]:
        at(f"cold{number}")
        with mlflow.start_run():
            mlflow.log_params(PARAMS)
            mlflow.log_metric("m", 0.5)
        return {}

    def count(number: int) -> dict[str, Any]:
        at(f"cold{number}")
        return {"found": len(mlflow.search_runs(filter_string="status = 'FINISHED'"))}

    def answers() -> dict[str, Any]:
        run = log()
        client = MlflowClient()
        curve = [point.value for point in sorted(client.get_metric_history(run, "m7"), key=lambda point: point.step)]
        params = {name: int(value) for name, value in client.get_run(run).data.params.items()}
        at("many")
        found = mlflow.search_runs(order_by=["metrics.m0 DESC"], max_results=100)
        best_one = mlflow.search_runs(filter_string="metrics.m1 > 0.5", order_by=["metrics.m0 DESC"], max_results=1)
        return {
            "curve": curve,
            "params": params,
            "top": found["metrics.m0"].tolist(),
            "best": best_one["metrics.m0"].tolist(),
            "runs": len(mlflow.search_runs(max_results=RUNS * 2)),
        }

    questions = (record, defaults, fill, top, best, everything, cold, count, answers)
    serve({question.__name__: question for question in questions})


def copy(file: str, template: str) -> None:
    """Write the other runs as copies of the rows of one that MLflow recorded, with values of their own: by its client that takes a quarter of an hour."""
    with sqlite3.connect(file) as connection:
        connection.row_factory = sqlite3.Row
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            rows_of = [dict(row) for row in connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (template,))]
            made = [row | own(table, row, number) for number in range(1, RUNS) for row in rows_of]
            names = list(rows_of[0])
            sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"
            connection.executemany(sql, made)
    connection.close()


def own(table: str, row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return in what the row of a run differs from the template's."""
    new: dict[str, Any] = {"run_uuid": f"{number:032x}"}
    params, metrics = known(number)
    if table == "runs":
        new["artifact_uri"] = row["artifact_uri"].replace(row["run_uuid"], new["run_uuid"])
    elif table == "params":
        new["value"] = str(params[row["key"]])
    elif table in ("metrics", "latest_metrics"):
        new["value"] = metrics[row["key"]]
    return new


known = cache(values)


if __name__ == "__main__":
    main(*sys.argv[1:])
