"""MLflow's registry on SQLite: ``python -m bench.projects.registry_mlflow FOLDER``."""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import mlflow
import skops.io
from mlflow.tracking import MlflowClient

from bench.projects.registry_model import VERSIONS, asked, fitted, small
from bench.worker import serve


def main(folder: str) -> None:  # noqa: C901  (one small function for each question)
    """Answer questions."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.sqlite")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=f"{folder}/artifacts"))
    client = MlflowClient()
    with mlflow.start_run() as run:
        model = fitted()
        trusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
        logged = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"], skops_trusted_types=trusted)
        little = mlflow.sklearn.log_model(small(), name="small", pip_requirements=["scikit-learn"])
    for name, stored in (("m", logged), ("small", little)):
        client.create_registered_model(name)
        client.create_model_version(name, stored.model_uri, run.info.run_id)
        client.set_registered_model_alias(name, "champion", "1")

    def register(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: client.create_model_version("m", logged.model_uri, run.info.run_id))

    def alias(times: int) -> dict[str, Any]:
        return _timed(times, lambda i: client.set_registered_model_alias("m", "champion", str(1 + i % 2)))

    def get(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: client.get_model_version_by_alias("m", "champion"))

    def load(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: mlflow.sklearn.load_model("models:/m@champion"))

    def load_small(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: mlflow.sklearn.load_model("models:/small@champion"))

    def versions(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: client.search_model_versions("name='m'", max_results=10_000))

    def fill() -> dict[str, Any]:
        for _ in range(VERSIONS - len(client.search_model_versions("name='m'", max_results=10_000))):
            client.create_model_version("m", logged.model_uri, run.info.run_id)
        return {}

    def answers() -> dict[str, Any]:
        found = mlflow.sklearn.load_model("models:/m@champion")
        return {
            "champion": int(client.get_model_version_by_alias("m", "champion").version),
            "versions": len(client.search_model_versions("name='m'", max_results=10_000)),
            "predictions": found.predict_proba(asked())[:, 1].round(12).tolist(),
        }

    questions = (register, alias, get, load, load_small, versions, fill, answers)
    serve({question.__name__: question for question in questions})


def _timed(times: int, do: Any) -> dict[str, Any]:
    spent = []
    for turn in range(times):
        begun = time.perf_counter()
        do(turn)
        spent.append(time.perf_counter() - begun)
    return {"seconds": median(spent)}


if __name__ == "__main__":
    main(*sys.argv[1:])
