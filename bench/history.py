"""What the benchmarks of point-in-time joins and of skew share: their history on disk, and the processes that join it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness import BIN, Worker, environment, peer
from bench.harness import versions as installed

FEAST = ("feast[duckdb]==0.67.0", "duckdb==2.0.1", "ibis-framework==12.0.0", "dask==2026.8.0", "pandas==2.3.3")
FRAMES = ("duckdb==1.5.5", "polars==2.1.0", "pyarrow==26.0.1", "numpy==2.4.6")  # as ours
OURS, DUCKDB, POLARS, FEAST_DUCKDB, FEAST_FILE = "ours", "DuckDB ASOF", "polars join_asof", "Feast, duckdb store", "Feast, default store"
KINDS = {OURS: "ours", DUCKDB: "duckdb", POLARS: "polars", FEAST_DUCKDB: "feast-duckdb", FEAST_FILE: "feast-file"}
SIZES = ((100_000, 1_000_000), (1_000_000, 1_000_000), (1_000_000, 5_000_000))


@dataclass
class History:
    """The files of one size, and the lake that holds the same rows.

    Parameters
    ----------
    spine, rows
        Rows of the spine, and of each view.
    folder
        Of everything.
    facts
        What preparing it took.
    """

    spine: int
    rows: int
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name the size."""
        return f"{_short(self.spine)} × {_short(self.rows)}"


def sizes(standard: Sequence[tuple[int, int]] = SIZES) -> tuple[Sequence[tuple[int, int]], bool]:
    """Return rows of spine and view, and whether they are the standard ones: ``BENCH_SIZES=2000x20000,…`` asks for others."""
    if not (asked := os.environ.get("BENCH_SIZES")):
        return standard, True
    return [(int(spine), int(rows)) for spine, rows in (size.split("x") for size in asked.split(","))], False


def pythons() -> dict[str, Path]:
    """Return the interpreter of each contender, its environment made when needed."""
    frames, feast = peer("history-frames", *FRAMES), peer("history-feast", *FEAST)
    return {OURS: BIN / "python", DUCKDB: frames, POLARS: frames, FEAST_DUCKDB: feast, FEAST_FILE: feast}


def versions(python: dict[str, Path]) -> dict[str, str]:
    """Return what was compared."""
    ours = installed(python[OURS], "mlops_assets", "polars", "duckdb", "pyarrow", "numpy")
    peers = {f"{n} (peer)": v for n, v in installed(python[DUCKDB], "duckdb", "polars").items()}
    feast = installed(python[FEAST_DUCKDB], "feast", "duckdb", "pandas")
    return {f"{n} (ours)": v for n, v in ours.items()} | peers | {n if n == "feast" else f"{n} (Feast)": v for n, v in feast.items()}


@contextlib.contextmanager
def started(python: Path, module: str, *arguments: object) -> Iterator[Worker]:
    """Start a process of ``bench.projects`` and end it."""
    quiet = environment(FEAST_USAGE="False", FEAST_TELEMETRY="False", PYTHONWARNINGS="ignore")
    worker = Worker([str(python), "-m", f"bench.projects.{module}", *map(str, arguments)], env=quiet)
    try:
        yield worker
    finally:
        worker.close()


def made(home: Path, spine: int, rows: int) -> History:
    """Write the files of one size, bring them into a lake, and lay them out."""
    history = History(spine, rows, home / f"{spine}x{rows}")
    with started(BIN / "python", "history_answers") as answers:
        answers.ask(do="make", folder=str(history.folder), spine=spine, rows=rows)
    with started(BIN / "python", "history_ours", history.folder) as ours:
        history.facts["write"] = ours.ask(do="write")
        for known in (True, False):
            history.facts[known] = ours.ask(do="lay_out", known=known)
    return history


def grown(history: History) -> None:
    """Bring one more day of rows into the lake, and the layouts up to date."""
    with started(BIN / "python", "history_ours", history.folder) as ours:
        history.facts["day"] = ours.ask(do="one_more_day", rows=history.rows)
        for known in (True, False):
            history.facts["day", known] = ours.ask(do="lay_out", known=known)


def _short(rows: int) -> str:
    return f"{rows // 10**6}M" if rows % 10**6 == 0 else f"{rows // 1000}k" if rows % 1000 == 0 else str(rows)
