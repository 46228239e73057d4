"""A process that materialises five plain assets again and again on a persistent instance."""

import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg

from bench.worker import serve

sys.path.insert(0, str(Path(__file__).parent))
from five_assets import FIVE

INSTANCE = dg.DagsterInstance.get()
JOB = dg.Definitions(FIVE).resolve_implicit_global_asset_job_def()
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _run() -> dict[str, Any]:
    begun = time.perf_counter()
    result = JOB.execute_in_process(instance=INSTANCE, run_config=QUIET)
    seconds = time.perf_counter() - begun
    if not result.success or result.output_for_node("fifth") != 5:
        raise RuntimeError("five steps did not make 5")
    return {"seconds": seconds}


serve({"run": _run})
