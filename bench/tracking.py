"""What it costs to log runs and to find them again: ours on SQLite against MLflow on SQLite, and eight processes on one file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from bench.harness import BIN, ContenderError, Worker, alternate, environment, peer, scratch
from bench.harness import versions as installed
from bench.projects.tracking_work import EACH, METRICS, PARAMS, PROCESSES, RUNS, STEPS
from bench.report import Comparison, Facts, Report, ratio

OURS, FLOW, DEFAULTS = "ours", "MLflow", "MLflow, its defaults"
ASKED = {  # what is asked, how often ours is and MLflow is in a round
    "the 100 best of 10,000 runs": ("top", 5, 1),
    "the best run by two metrics": ("best", 5, 1),
    "all 10,000 runs as a frame": ("everything", 1, 1),
}
LOGGED = "log a run"
TARGET, MOST = 10.0, 0.1  # times as fast as MLflow; seconds a run
COLD = {OURS: 50, FLOW: 2}  # rounds; each round of MLflow takes long
FAIR = [
    f"One run: {len(PARAMS)} parameters, {len(METRICS)} metrics of {STEPS} steps each, a gradient boosting model of 100 trees with an input example. SQLite files on the same disk.",
    "MLflow: `log_batch` of 1,000 points, `log_model` with `pip_requirements` given. Its defaults: `log_params`, one `log_metrics` a step, `log_model` that finds the requirements itself.",
    "Ours: `ml.runs.log_metric` 5,000 times, the model with probe rows and their predictions, opened again before it counts as stored, and every installed distribution. Every commit is on the disk.",
    "10,000 runs of five parameters and five metrics are searched, MLflow's copied within its database from one that its client recorded: `mlflow.search_runs` gives pandas, `ml.runs.search` polars.",
    "Before a time counted, both gave the same curve, parameters, hundred best values, best run and number of runs.",
]
TOGETHER = [
    f"{PROCESSES} processes begin at the same moment. Cold: on a file that does not exist yet, one run each, {COLD[OURS]} rounds of ours and {COLD[FLOW]} of MLflow. Warm: {EACH} whole runs each, with the model, on a file that has runs already.",
    "A run counts as failed when logging it raised, or when it is not found afterwards. A process fails with its first run that does.",
]


def run(*, full: bool) -> Report:
    """Run the whole benchmark; ``full`` times what MLflow takes seconds for more than once."""
    home = scratch("tracking")
    flow = peer("registry-mlflow", "mlflow==3.17.0", *(f"{n}=={v}" for n, v in installed(BIN / "python", "scikit-learn", "numpy").items()))
    quiet = environment(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", OMP_NUM_THREADS="1")
    with contextlib.ExitStack() as stack:
        crews: dict[str, list[Worker]] = {}
        for name, python, project in ((OURS, BIN / "python", "ours"), (FLOW, flow, "mlflow")):
            folder = home / project
            folder.mkdir()
            command = [str(python), "-m", f"bench.projects.tracking_{project}", str(folder)]
            crews[name] = [Worker(command, env=quiet) for _ in range(PROCESSES)]
            for worker in crews[name]:
                stack.callback(worker.close)
        table = _compared({name: crew[0] for name, crew in crews.items()}, rounds=5 if full else 3)
        together = _together(crews)
    versions = {f"{n} (ours)": v for n, v in installed(BIN / "python", "mlops_assets", "sqlalchemy").items()}
    versions |= installed(flow, "mlflow", "scikit-learn")
    return Report("tracking", "Logging runs and finding them", [table, together, _targets(table)], versions)


def _compared(workers: Mapping[str, Worker], rounds: int) -> Comparison:
    for worker in workers.values():
        worker.tell(do="fill")
    for worker in workers.values():
        worker.hear()
    wrong = _wrong(workers)
    contenders = {
        OURS: _question(workers[OURS], "record", 5),
        FLOW: _question(workers[FLOW], "record", 1),
        DEFAULTS: _question(workers[FLOW], "defaults", 1),
    }
    rows = {LOGGED: alternate(contenders, rounds=rounds)}
    for label, (what, many, few) in ASKED.items():
        contenders = {name: _question(worker, what, many if name == OURS else few) for name, worker in workers.items()}
        rows[label] = alternate(contenders, rounds=rounds)
    for row in rows.values():
        row[FLOW].failure = row[FLOW].failure or wrong
    return Comparison("Tracking against MLflow", OURS, rows, FAIR)


def _question(worker: Worker, what: str, times: int) -> Callable[[], float]:
    return lambda: float(worker.ask(do=what, times=times)["seconds"])


def _wrong(workers: Mapping[str, Worker]) -> str | None:
    """Return in what the answers differ."""
    mine, theirs = (workers[name].ask(do="answers") for name in (OURS, FLOW))
    differs = [name for name, value in theirs.items() if mine[name] != value]
    if mine["runs"] != RUNS:
        raise ContenderError(f"we have {mine['runs']} runs of {RUNS}")
    return f"other {', '.join(differs)} than ours" if differs else None


def _together(crews: Mapping[str, list[Worker]]) -> Facts:
    lines, wrong = [], []
    for name, crew in crews.items():
        lost = 0
        for number in range(COLD[name]):
            failed = sum(not done for done in _at_once(crew, do="cold", number=number))
            lost += max(failed, PROCESSES - int(crew[0].ask(do="count", number=number)["found"]))
        begun = time.perf_counter()
        warm = _at_once(crew, do="record", times=EACH)
        seconds = time.perf_counter() - begun
        lines.append(
            (
                name,
                f"{lost} of {PROCESSES * COLD[name]}",
                f"{sum(not done for done in warm)} of {PROCESSES}",
                f"{sum(warm) * EACH / seconds:.1f}",
            )
        )
        wrong += ["ours lost a run"] if name == OURS and (lost or not all(warm)) else []
    head = ("", "cold: runs that failed", "warm: processes that failed", "warm: runs a second")
    return Facts("Eight processes on one SQLite file", head, lines, TOGETHER, wrong)


def _at_once(crew: list[Worker], **question: Any) -> list[bool]:
    """Ask all at the same moment; return who could do it."""
    for worker in crew:
        worker.tell(**question)
    return [_heard(worker) for worker in crew]


def _heard(worker: Worker) -> bool:
    try:
        worker.hear()
    except ContenderError:
        return False
    return True


def _targets(table: Comparison) -> Facts:
    lines = []
    seconds = table.rows[LOGGED][OURS].median or 0
    lines.append(("log a run", f"≤ {MOST * 1000:.0f} ms", f"{seconds * 1000:.0f} ms", "yes" if seconds <= MOST else "no"))
    for label, row in table.rows.items():
        times = ratio(row[FLOW], row[OURS]) or 0
        lines.append((label, f"≥ {TARGET:.0f}× MLflow", f"{times:.0f}×", "yes" if times >= TARGET else "no"))
    return Facts("Targets", ("", "target", "measured", "met"), lines, [])
