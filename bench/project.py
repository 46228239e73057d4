"""A whole project next to a plain script: a dataset, a feature view, a training set and a registered model, in 182 daily partitions.

``python -m bench project --full`` takes three million rows; without ``--full`` it is a smoke run. ``BENCH_ROWS`` names another number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from bench.harness import BIN, ROOT, ContenderError, Samples, environment, output, scratch, tail
from bench.harness import versions as installed
from bench.projects import project_data as data
from bench.report import Comparison, Facts, Report

ROWS, SMOKE_ROWS, DAYS = 3_000_000, 60_000, 182
ROUNDS, SMOKE_ROUNDS = 3, 1
OURS, SCRIPT = "mlops run", "polars and scikit-learn script"
PYTHON = str(BIN / "python")
MODEL_KEYS = 'key:"model/lateness*" or key:"version/lateness*" or key:"champion/lateness*"'
# Step → the selection of `mlops run` and the step of the script that does the same.
STEPS = {
    "dataset": ('key:"dataset/orders"', "dataset"),
    "feature view": ('key:"features/shop_delays_features"', "view"),
    "training set": ('key:"training_set/deliveries"', "training_set"),
    "training, evaluation, registration": (MODEL_KEYS, "model"),
}
REPEATED = "the same again, nothing to do"
STARTED = "start: load the libraries and the project"
CPU, WALL = "CPU seconds", "seconds from start to exit"


class Usage:
    """The CPU and wall seconds of processes, by step."""

    def __init__(self) -> None:
        self.cpu: dict[str, Samples] = {}
        self.wall: dict[str, Samples] = {}

    def run(self, step: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Run a command to its end and add what it took, its child processes included."""
        begun = time.perf_counter()
        with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=dict(env), stdout=log, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            if process.returncode:
                raise ContenderError(f"{step}: exit code {process.returncode}: {tail(log.read())}")
        self.cpu.setdefault(step, Samples()).seconds.append(used.ru_utime + used.ru_stime)
        self.wall.setdefault(step, Samples()).seconds.append(time.perf_counter() - begun)


def run(*, full: bool) -> Report:
    """Run the whole benchmark."""
    rows = int(os.environ.get("BENCH_ROWS", ROWS if full else SMOKE_ROWS))
    folder = scratch("project")
    env = environment(BENCH_ORDERS=str(folder / "raw.parquet"), BENCH_DAYS=str(DAYS), MLOPS_HOME=str(folder / "home"), PYTHONPATH=str(ROOT))
    data.write_orders(folder / "raw.parquet", rows, DAYS)
    ours, script = Usage(), Usage()
    for _ in range(ROUNDS if full else SMOKE_ROUNDS):
        for name in ("home", "script"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "script").mkdir()
        _run_round(folder / "script", env, ours, script)
        answers = _compare(folder / "script", env)
    shutil.rmtree(folder)
    notes = [
        f"{rows:,} rows in {DAYS} daily partitions. Each step is one command, measured from its start to its exit with its child processes.",
        "Ours verifies, hashes and commits each partition, reads upstream tables against their recorded hashes, and registers a gated version with its card. The script checks the schema, writes Parquet files and stores the model with skops.",
        "Both left the same rows, features and splits, and the same metrics on the holdout, checked after each round.",
        f"'{REPEATED}' runs the whole project again on unchanged inputs; the script has nothing that could decide that.",
    ]
    tables = [
        Comparison(f"Project, {CPU}", OURS, _rows(ours.cpu, script.cpu), notes),
        Comparison(f"Project, {WALL}", OURS, _rows(ours.wall, script.wall)),
        _ratios(ours, script),
        Facts("What both left", ("", "value"), list(answers.items())),
    ]
    return Report(
        "project", "A project next to a script", tables, installed(BIN / "python", "mlops_assets", "dagster", "polars", "scikit-learn")
    )


def _run_round(script_folder: Path, env: Mapping[str, str], ours: Usage, script: Usage) -> None:
    last = data.FIRST_DAY + timedelta(days=DAYS - 1)
    partitions = f"{data.FIRST_DAY:%Y-%m-%d}...{last:%Y-%m-%d}"
    line = (str(BIN / "mlops"), "run", "-f", "bench/projects/project_ours.py", "--partitions", partitions, "--select")
    script_line = (PYTHON, "-m", "bench.projects.project_script")
    ours.run(STARTED, (PYTHON, "-c", "import bench.projects.project_ours"), env)
    script.run(STARTED, (PYTHON, "-c", "import bench.projects.project_script"), env)
    for step, (selection, part) in STEPS.items():
        ours.run(step, (*line, selection), env)
        script.run(step, (*script_line, part, str(script_folder)), env)
    ours.run(REPEATED, (*line, "*"), env)


def _rows(ours: Mapping[str, Samples], script: Mapping[str, Samples]) -> dict[str, dict[str, Samples]]:
    return {step: {OURS: samples, **({SCRIPT: script[step]} if step in script else {})} for step, samples in ours.items()}


def _ratios(ours: Usage, script: Usage) -> Facts:
    """Return our seconds over the script's, which is how the targets are written."""
    rows = [
        (step, f"{ours.cpu[step].median / script.cpu[step].median:.1f}×", f"{ours.wall[step].median / script.wall[step].median:.1f}×")
        for step in STEPS
    ]
    return Facts(
        "Ours over the script",
        ("", "CPU", "wall"),
        rows,
        ["Targets: training at most 1.5×, the rest at most 3×, nothing to do at most 5 s."],
    )


def _compare(script_folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return what both left; raise ContenderError where it differs."""
    code = "import sys; from bench.projects.project_answers import compare; print(compare(sys.argv[1]))"
    return json.loads(output([PYTHON, "-c", code, str(script_folder)], env=env).splitlines()[-1])
