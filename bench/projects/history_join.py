"""A process that joins: ``python -m bench.projects.history_join KIND FOLDER KNOWN``, of any contender, in its own environment.

``KIND`` is ``ours``, ``duckdb``, ``polars``, ``feast-duckdb`` or ``feast-file``; ``KNOWN`` is 1 where only what was known counts.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.projects.history_data import memory
from bench.worker import serve


def main(kind: str, folder: str, known: str) -> None:
    """Answer questions: each join is timed, the first may be kept."""
    module = importlib.import_module(f"bench.projects.history_{kind.split('-', maxsplit=1)[0]}")
    joined: Callable[[], Any] = module.ready(Path(folder), kind.partition("-")[2], known == "1")
    before = memory()["now"]

    def join(answer: str | None = None) -> dict[str, Any]:
        begun = time.perf_counter()
        frame = joined()
        spent, peak = time.perf_counter() - begun, memory()["peak"]
        if answer:
            (frame.write_parquet if hasattr(frame, "write_parquet") else frame.to_parquet)(answer)
        return {"seconds": spent, "rows": len(frame), "peak": peak, "before": before}

    serve({"join": join})


if __name__ == "__main__":
    main(*sys.argv[1:])
