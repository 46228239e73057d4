"""Our tracker: ``python -m bench.projects.tracking_ours FOLDER``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

import mlops_assets as ml
from bench.projects.registry_model import COLUMNS, fitted, rows
from bench.projects.tracking_work import CURVES, PARAMS, RUNS, STEPS, timed, values
from bench.worker import serve
from mlops_assets.compute.training.environment import format_lock, installed_distributions, thread_settings
from mlops_assets.serving.formats.packaging import pack
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.tracker.tracker import Run

NAMES = [f"x{i}" for i in range(COLUMNS)]


def main(folder: str) -> None:  # noqa: C901  (one small function for each question)
    """Answer questions."""
    one, many = ml.Platform.at(f"{folder}/one"), ml.Platform.at(f"{folder}/many")
    model, X = fitted(), pl.DataFrame(rows(500), schema=NAMES)

    def log(platform: ml.Platform) -> str:
        with ml.start_run("bench", params=PARAMS, platform=platform) as run:
            for step in range(STEPS):
                for name, curve in CURVES.items():
                    ml.runs.log_metric(name, curve[step], step=step)
            artifacts = open_artifacts(platform.artifacts)
            stored = pack(artifacts, model, X=X, modules=[], facts={"example": X.row(0), "threads": thread_settings()})
            ml.runs.log_artifact("model.json", artifacts.get(stored))
            ml.runs.log_artifact("requirements.txt", format_lock(installed_distributions()).encode())
        return run.id

    def record(times: int) -> dict[str, Any]:
        return timed(times, lambda: log(one))

    def fill() -> dict[str, Any]:
        tracker, at = open_stores(many).tracker, datetime.now(UTC)
        for number in range(RUNS):
            params, metrics = values(number)
            tracker.add(Run(f"{number:032x}", "bench", "", "", at, at, None, params, metrics, {}, kind="run"))
        return {}

    def top(times: int) -> dict[str, Any]:
        return timed(times, lambda: ml.runs.search(order_by="metrics.m0 desc", limit=100, platform=many))

    def best(times: int) -> dict[str, Any]:
        return timed(times, lambda: ml.runs.search("metrics.m1 > 0.5", order_by="metrics.m0 desc", limit=1, platform=many))

    def everything(times: int) -> dict[str, Any]:
        return timed(times, lambda: ml.runs.search(platform=many))

    def cold(number: int) -> dict[str, Any]:
        with ml.start_run("bench", params=PARAMS, platform=ml.Platform.at(f"{folder}/cold{number}")) as run:
            run.log_metrics({"m": 0.5})
        return {}

    def count(number: int) -> dict[str, Any]:
        return {"found": ml.runs.search("status = 'finished'", platform=ml.Platform.at(f"{folder}/cold{number}")).height}

    def answers() -> dict[str, Any]:
        run = log(one)
        tracker = open_stores(one).tracker
        found = ml.runs.search(order_by="metrics.m0 desc", limit=100, platform=many)
        best_one = ml.runs.search("metrics.m1 > 0.5", order_by="metrics.m0 desc", limit=1, platform=many)
        return {
            "curve": [float(v) for v in tracker.curves(run)["m7"].values],
            "params": {name: int(value) for name, value in tracker.get(run).params.items()},
            "top": found["metrics.m0"].to_list(),
            "best": best_one["metrics.m0"].to_list(),
            "runs": ml.runs.search(platform=many).height,
            "bytes": sum(file.stat().st_size for file in Path(one.home).rglob("*") if file.is_file()),
        }

    questions = (record, fill, top, best, everything, cold, count, answers)
    serve({question.__name__: question for question in questions})


if __name__ == "__main__":
    main(*sys.argv[1:])
