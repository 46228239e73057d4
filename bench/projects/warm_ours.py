"""A process that runs five datasets, or five plain assets, again and again on the instance that ``mlops run`` opens."""

import sys
import time
from typing import Any

import dagster as dg

from bench.worker import serve
from mlops_assets.cli.project import LoadedProject, load, open_clean_instance

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def main(file: str) -> None:
    """Load the project and open the instance once, and answer."""
    project = load(file)
    job, opened = project.definitions.resolve_implicit_global_asset_job_def(), open_clean_instance(project.platform)
    serve({"run": lambda: _run(job, opened), "last": lambda: _last(project)})


def _run(job: dg.JobDefinition, opened: dg.DagsterInstance) -> dict[str, Any]:
    begun = time.perf_counter()
    result = job.execute_in_process(instance=opened, run_config=QUIET)
    seconds = time.perf_counter() - begun
    steps = len(result.get_asset_materialization_events())
    if not result.success or steps != 5:
        raise RuntimeError(f"{steps} of 5 steps were done")
    return {"seconds": seconds}


def _last(project: LoadedProject) -> dict[str, Any]:
    return {"n": int(project.stores.lake.read("dataset/fifth")["n"][0])}


main(sys.argv[1])
