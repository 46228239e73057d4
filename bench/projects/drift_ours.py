"""Ours: the profile of the reference, and a report of the current window; ``python -m bench.projects.drift_ours FOLDER COLUMNS``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from bench.projects.drift_data import TIME, find_file, name_columns
from bench.projects.history_data import memory
from bench.worker import serve
from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.profile import build_profile


def read_profile(folder: Path) -> dict[str, Any]:
    """Return the stored profile."""
    return json.loads((folder / "profile.json").read_text(encoding="utf-8"))


def build_by_columns(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the profile of the reference without event times, with one column in memory at a time."""
    profiles = [build_profile(pl.read_parquet(find_file(folder, "reference"), columns=[name])) for name in names]
    return profiles[0] | {"columns": {name: column for profile in profiles for name, column in profile["columns"].items()}}


def main(where: str, columns: str) -> None:
    """Answer questions; rows that are not streamed are in memory before anything is timed."""
    folder, names = Path(where), [name for kind in name_columns(int(columns)) for name in kind]
    frames: dict[str, pl.DataFrame] = {}

    def read(which: str) -> pl.DataFrame:
        if which not in frames:
            frames[which] = pl.read_parquet(find_file(folder, which), columns=[*names, TIME])
        return frames[which]

    def prepare(stream: bool = False) -> dict[str, Any]:
        rows = None if stream else read("reference")
        begun = time.perf_counter()
        profile = build_by_columns(folder, names) if rows is None else build_profile(rows.select(names), rows[TIME])
        (folder / "profile.json").write_text(json.dumps(profile), encoding="utf-8")
        return {"seconds": time.perf_counter() - begun, **memory()}

    def report(stream: bool = False) -> dict[str, Any]:
        window = pl.scan_parquet(find_file(folder, "current")) if stream else read("current")
        begun = time.perf_counter()
        found: DriftReport = measure_drift(read_profile(folder), window)
        return {"seconds": time.perf_counter() - begun, "drifted": sorted(found.drifted), **memory()}

    serve({"prepare": prepare, "report": report})


if __name__ == "__main__":
    main(*sys.argv[1:])
