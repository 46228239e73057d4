"""What the model registry costs: ours on SQLite against MLflow on SQLite; and intervals of a difference against scipy's bootstrap."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.harness import BIN, ContenderError, Worker, alternate, environment, peer, scratch
from bench.harness import versions as installed
from bench.report import Comparison, Facts, Report, ratio

OURS, FLOW, SCIPY = "ours", "MLflow", "scipy.stats.bootstrap"
ROUNDS = 5
ASKED = {  # what MLflow is asked, what ours is, how often in a round of each
    "register a version": ("register", "register", 10, 20),
    "the same, its candidate's gates recorded": ("register", "judged", 10, 20),
    "set the alias": ("alias", "alias", 10, 20),
    "get by alias": ("get", "get", 20, 200),
    "load by alias, a linear model": ("load_small", "load_small", 5, 20),
    "load by alias, 100 trees": ("load", "load", 3, 10),
    "read 1,000 versions": ("versions", "versions", 1, 5),
}
TARGET = 10.0  # times as fast as MLflow
ROWS = 5000
FAIR = [
    "A gradient boosting model of 100 trees and 14 columns (and a linear one, to load), stored once; every version names it; skops files in both. SQLite files on the same disk.",
    "MLflow: `MlflowClient.create_model_version`, `set_registered_model_alias`, `get_model_version_by_alias`, `mlflow.sklearn.load_model('models:/m@champion')`, `search_model_versions`.",
    "Ours: `register`, which verifies the gates' evidence (and again with `submit`, which records it: MLflow has no such thing); a promotion that verifies the gates and writes the log; `champion`; `champion` and `unpack`, which compares every byte and the probe's predictions; `versions`, with states, aliases and approvals. Every commit is on the disk (`synchronous = FULL`).",
    "Before a time counted, both gave the same champion, the same number of versions and the same 200 predictions.",
]
SURE = [
    f"The 95 % interval of the difference in ROC AUC between two models on the same {ROWS:,} rows, 1,000 resamples, percentiles; one core each.",
    "scipy: `bootstrap(..., paired=True, vectorized=False, method='percentile')` with scikit-learn's `roc_auc_score`; ours: `PairedIntervals.difference`, predictions already made.",
    "Before a time counted, the ends of both intervals were less than a tenth of their width apart.",
]


def run(*, full: bool) -> Report:  # noqa: ARG001  (nothing here grows)
    """Run the whole benchmark."""
    home = scratch("registry")
    flow = peer("registry-mlflow", "mlflow==3.17.0", *(f"{n}=={v}" for n, v in installed(BIN / "python", "scikit-learn", "numpy").items()))
    quiet = environment(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", OMP_NUM_THREADS="1")
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, python, project in ((OURS, BIN / "python", "ours"), (FLOW, flow, "mlflow")):
            folder = home / project
            folder.mkdir()
            workers[name] = Worker([str(python), "-m", f"bench.projects.registry_{project}", str(folder)], env=quiet)
            stack.callback(workers[name].close)
        table = _compared(workers)
    sure = _intervals()
    versions = {f"{n} (ours)": v for n, v in installed(BIN / "python", "mlops_assets", "sqlalchemy", "scipy").items()}
    versions |= installed(flow, "mlflow", "scikit-learn")
    return Report("registry", "The model registry", [table, _targets(table), sure], versions)


def _compared(workers: Mapping[str, Worker]) -> Comparison:
    rows = {}
    for label, (theirs, ours, few, many) in ASKED.items():
        if ours == "versions":
            for worker in workers.values():
                worker.ask(do="fill")
            wrong = _wrong(workers)
        rows[label] = alternate(
            {name: _question(worker, *((ours, many) if name == OURS else (theirs, few))) for name, worker in workers.items()}, rounds=ROUNDS
        )
    for row in rows.values():
        row[FLOW].failure = row[FLOW].failure or wrong
    return Comparison("Registry against MLflow", OURS, rows, FAIR)


def _question(worker: Worker, what: str, times: int) -> Callable[[], float]:
    return lambda: float(worker.ask(do=what, times=times)["seconds"])


def _wrong(workers: Mapping[str, Worker]) -> str | None:
    """Return in what the answers differ."""
    mine, theirs = (workers[name].ask(do="answers") for name in (OURS, FLOW))
    differs = [name for name in ("champion", "versions") if mine[name] != theirs[name]]
    differs += [] if np.allclose(mine["predictions"], theirs["predictions"], atol=1e-9) else ["predictions"]
    return f"other {', '.join(differs)} than ours" if differs else None


def _targets(table: Comparison) -> Facts:
    lines = []
    for label, row in table.rows.items():
        times = ratio(row[FLOW], row[OURS]) or 0
        lines.append((label, f"≥ {TARGET:.0f}×", f"{times:.0f}×", "yes" if times >= TARGET else "no"))
    return Facts("Targets", ("", "target, times as fast as MLflow", "measured", "met"), lines, [])


def _intervals() -> Comparison:
    import polars as pl
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    from mlops_assets.compute.training.resampling import PairedIntervals
    from mlops_assets.compute.training.responses import CachedPredictor

    rng = np.random.default_rng(3)
    y = (rng.random(ROWS) < 0.3).astype(int)
    shared = rng.normal(size=ROWS)
    scores = [gain * y + shared + 0.5 * rng.normal(size=ROWS) for gain in (1.2, 1.0)]
    frame = pl.DataFrame({"x": np.zeros(ROWS)})

    def ours() -> tuple[float, float]:
        models = [CachedPredictor(_Says(s), frame) for s in scores]
        return PairedIntervals(models[0], models[1], y, frame, "bench").difference("roc_auc")

    def scipys() -> tuple[float, float]:
        def statistic(chosen: np.ndarray) -> float:
            rows = chosen.astype(int)
            return float(roc_auc_score(y[rows], scores[0][rows]) - roc_auc_score(y[rows], scores[1][rows]))

        found = stats.bootstrap((np.arange(ROWS),), statistic, n_resamples=1000, vectorized=False, method="percentile", rng=rng)
        return float(found.confidence_interval.low), float(found.confidence_interval.high)

    mine, theirs = ours(), scipys()
    if max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) > 0.1 * (theirs[1] - theirs[0]):
        raise ContenderError(f"the interval is {mine}, scipy's is {theirs}")
    samples = alternate({OURS: lambda: _seconds(ours), SCIPY: lambda: _seconds(scipys)}, rounds=3, warm=0)
    return Comparison("Interval of a difference against scipy", OURS, {"ROC AUC, 5,000 rows": samples}, SURE)


def _seconds(do: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


class _Says:
    """A classifier that says what it was given."""

    classes_ = np.array([0, 1])

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores

    def decision_function(self, _X: Any) -> np.ndarray:
        return self._scores

    def predict(self, _X: Any) -> np.ndarray:
        return (self._scores > 0).astype(int)

    def __sklearn_tags__(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression().__sklearn_tags__()
