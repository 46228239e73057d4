"""NannyML's univariate drift calculator: ``python -m bench.projects.drift_nannyml FOLDER COLUMNS``."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # before the import, which would send events

import nannyml

from bench.projects.drift_data import name_columns, read_pandas
from bench.projects.history_data import memory
from bench.worker import serve


def main(where: str, columns: str) -> None:
    """Answer questions; both sets of rows are in memory before anything is timed."""
    warnings.simplefilter("ignore")
    numbers, categories = name_columns(int(columns))
    rows, fitted = {}, []

    def read(which: str):
        if which not in rows:
            rows[which] = read_pandas(Path(where), which, int(columns))
        return rows[which]

    def prepare() -> dict[str, Any]:
        reference = read("reference")
        begun = time.perf_counter()
        calculator = nannyml.UnivariateDriftCalculator(column_names=numbers + categories, treat_as_categorical=categories)
        fitted[:] = [calculator.fit(reference)]
        return {"seconds": time.perf_counter() - begun, **memory()}

    def report() -> dict[str, Any]:
        window = read("current")
        begun = time.perf_counter()
        table = fitted[0].calculate(window).filter(period="analysis").to_df()
        seconds = time.perf_counter() - begun
        alerts = {column: table[column].xs("alert", axis=1, level=-1).mean().max() for column in numbers + categories}
        return {"seconds": seconds, "drifted": sorted(name for name, share in alerts.items() if share > 0.5), **memory()}

    serve({"prepare": prepare, "report": report})


if __name__ == "__main__":
    main(*sys.argv[1:])
