"""What is true of the rows of the drift benchmark: scipy on the raw columns, and the PSI counted directly in the stored bins."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.projects.drift_data import find_file, name_columns, write_rows
from bench.projects.drift_ours import read_profile
from bench.worker import serve
from mlops_assets.compute.drift.drift_report import measure_drift

MIN_SHARE = 1e-4  # of a bin, without which the PSI of an empty bin would be infinite


def compute_psi(stored: Mapping[str, Any], reference: pl.Series, current: pl.Series) -> float:
    """Return the population stability index of a column, from its rows and the stored edges or values."""
    count = _count_numbers if stored["kind"] == "numeric" else _count_categories
    counts = [count(stored, rows) for rows in (current, reference)]
    p, q = (np.maximum(np.array(bins) / sum(bins), MIN_SHARE) for bins in counts)
    return float(((p - q) * np.log(p / q)).sum())


def _count_numbers(stored: Mapping[str, Any], rows: pl.Series) -> list[int]:
    """Count a bin for each atom, for each interval that ends in an edge, and for nulls."""
    values = rows.drop_nulls().to_numpy()
    atoms, inner = np.array(stored["atoms"]), stored["edges"][1:-1]
    others = values[~np.isin(values, atoms)]
    intervals = np.bincount(np.searchsorted(inner, others), minlength=len(inner) + 1)
    return [*intervals.tolist(), *(int((values == atom).sum()) for atom in atoms), rows.null_count()]


def _count_categories(stored: Mapping[str, Any], rows: pl.Series) -> list[int]:
    """Count a bin for each frequent category, for the rare ones, for the new ones, and for nulls."""
    counts = dict(rows.drop_nulls().value_counts().iter_rows())
    frequent = [counts.pop(value, 0) for value in stored["values"][: stored["frequent"]]]
    rare = sum(counts.pop(value, 0) for value in stored["values"][stored["frequent"] :])
    return [*frequent, rare, sum(counts.values()), rows.null_count()]


def main(where: str, columns: str) -> None:
    """Answer questions."""
    folder = Path(where)

    def make(which: str, rows: int) -> dict[str, Any]:
        write_rows(folder, which, rows, int(columns))
        return {}

    def compare() -> dict[str, Any]:
        from scipy.stats import ks_2samp, wasserstein_distance

        reference, current = (pl.read_parquet(find_file(folder, which)) for which in ("reference", "current"))
        profile = read_profile(folder)
        reported = {column.name: column.statistics for column in measure_drift(profile, current).columns}
        numbers, categories = name_columns(int(columns))
        differences: dict[str, list[float]] = {"ks": [], "wasserstein": [], "psi": []}
        for name in numbers + categories:
            psi = compute_psi(profile["columns"][name], reference[name], current[name])
            differences["psi"].append(abs(reported[name]["psi"] - psi))
        for name in numbers:
            before, after = (rows[name].drop_nulls().to_numpy() for rows in (reference, current))
            differences["ks"].append(abs(reported[name]["ks"] - ks_2samp(before, after, method="asymp").statistic))
            distance = wasserstein_distance(before, after) / before.std()
            differences["wasserstein"].append(abs(reported[name]["wasserstein"] - distance))
        return {name: {"columns": len(values), "largest": float(max(values))} for name, values in differences.items()}

    serve({"make": make, "compare": compare})


if __name__ == "__main__":
    main(*sys.argv[1:])
