"""A replay of three policies over the flights year: wall time, CPU and fits, side by side with a plain loop in scikit-learn.

Both read the same rows with their features, make the same fits and give the same metrics; the loop has no gates, reports, pages or resumption.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench.harness import BIN, ROOT, ContenderError, Samples, environment, output, scratch, versions
from bench.report import Comparison, Facts, Report

OURS, LOOP = "mlops replay", "a loop in scikit-learn"
POLICIES = ("never", "every:30d", "every:30d,window=90d")
PERIOD = ("--from", "2013-04-01", "--to", "2014-01-01", "--by", "month")
ROUNDS = 2
PR_SET_CHILD_SUBREAPER = 36  # Linux: processes whose parent has ended become children of this one
MAX_RATIO, TOLERANCE = 2.0, 1e-9
NOTES = [
    "April to December 2013, 275 daily windows, the model, features and gates of the reference project; the first version is trained on January to March.",
    "Tables and features are loaded beforehand, for both. CPU is that of the process and of its children. A round begins without any fit.",
    "`mlops replay` imports the project in three processes, measures a report for each window, and writes page and JSON.",
]


def run(*, full: bool) -> Report:  # noqa: ARG001  (one size)
    """Run the whole benchmark."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    home = scratch("replay")
    for name in ("definitions.py", "features.py", "flights_data.py", "dbt_features"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, home / name)
    _replay(home, ("never",))  # loads the tables
    wall, cpu = {OURS: Samples(), LOOP: Samples()}, {OURS: Samples(), LOOP: Samples()}
    results: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        shutil.rmtree(home / ".mlops" / "replays" / "fits")
        for name, call in ((OURS, lambda: _replay(home, POLICIES)), (LOOP, lambda: _loop(home))):
            begun, used = time.perf_counter(), _cpu()
            results[name] = call()
            wall[name].seconds.append(time.perf_counter() - begun)
            cpu[name].seconds.append(_cpu() - used)
    rows, wrong = [], []
    for policy in POLICIES:
        ours, loop = ([window[policy] for window in results[name]["windows"]] for name in (OURS, LOOP))
        apart = max(abs(a - b) for a, b in zip(ours, loop, strict=True))
        rows.append((policy, sum(ours) / len(ours), results[OURS]["fits"][policy], results[LOOP]["fits"][policy], apart))
        if apart > TOLERANCE:
            wrong.append(f"{policy}: the metrics of a month differ by {apart:.3g}")
    share = min(cpu[OURS].seconds) / min(cpu[LOOP].seconds)
    if share > MAX_RATIO:
        wrong.append(f"the replay takes {share:.2f} times the CPU of the loop, at most {MAX_RATIO} are allowed")
    columns = ("policy", "mean roc_auc of nine months", "trainings, replay", "trainings, loop", "largest difference of a month")
    tables = [
        Comparison("Three policies replayed", OURS, {"wall time": wall, "CPU": cpu}, NOTES),
        Facts("The same answers", columns, rows, (), wrong),
    ]
    return Report("replay", "Replay of retraining policies", tables, versions(Path(sys.executable), "scikit-learn", "polars", "dagster"))


def _cpu() -> float:
    with contextlib.suppress(ChildProcessError):
        while True:  # a fork server ends after the replay that started it: its workers' time counts once it is waited for
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _replay(home: Path, policies: tuple[str, ...]) -> dict[str, Any]:
    """Run the command; return the metric of each month by policy, and the number of trainings."""
    options = [part for policy in policies for part in ("--policy", policy)]
    output(
        [str(BIN / "mlops"), "replay", *PERIOD, *options, "--json", "result.json"],
        cwd=home,
        env=environment(MLOPS_HOME=str(home / ".mlops")),
    )
    found = json.loads((home / "result.json").read_text())["policies"]
    months = [{policy: found[policy]["windows"][i]["roc_auc"] for policy in policies} for i in range(len(found["never"]["windows"]))]
    return {"windows": months, "fits": {policy: len(found[policy]["trainings"]) for policy in policies}}


def _loop(home: Path) -> dict[str, Any]:
    """Run the loop on the rows that the replay stored for its workers."""
    stored = list((home / ".mlops" / "replays").glob("*.arrow"))
    if len(stored) != 1:
        raise ContenderError(f"the replay has stored {len(stored)} histories")
    code = str(ROOT / "bench" / "projects" / "replay_loop.py")
    return json.loads(output([sys.executable, code, str(stored[0]), *POLICIES], cwd=home))
