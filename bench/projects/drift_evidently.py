"""Evidently's preset of data drift: ``python -m bench.projects.drift_evidently FOLDER COLUMNS``."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

from bench.projects.drift_data import name_columns, read_pandas
from bench.projects.history_data import memory
from bench.worker import serve


def main(where: str, columns: str) -> None:
    """Answer questions; both sets of rows are datasets in memory before anything is timed."""
    warnings.simplefilter("ignore")
    numbers, categories = name_columns(int(columns))
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    rows: dict[str, Dataset] = {}

    def report() -> dict[str, Any]:
        for which in ("current", "reference"):
            if which not in rows:
                rows[which] = Dataset.from_pandas(read_pandas(Path(where), which, int(columns)), definition)
        begun = time.perf_counter()
        metrics = Report([DataDriftPreset()]).run(rows["current"], rows["reference"]).dict()["metrics"]
        seconds = time.perf_counter() - begun
        values = [(metric["config"], metric["value"]) for metric in metrics if "column" in metric["config"]]
        # The preset's statistics for more than 1,000 rows are distances.
        return {"seconds": seconds, "drifted": sorted(c["column"] for c, value in values if value >= c["threshold"]), **memory()}

    serve({"report": report})


if __name__ == "__main__":
    main(*sys.argv[1:])
