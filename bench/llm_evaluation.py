"""What a kill costs an evaluation: the calls and seconds until its table is complete, resumed from stored answers, and restarted without them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import polars as pl

from bench.harness import BIN, PATIENCE, ROOT, ContenderError, Samples, environment, scratch, timed
from bench.harness import versions as installed
from bench.llm_service import run_endpoint
from bench.projects.llm_work import ANSWER_SECONDS, CASES, CONCURRENCY
from bench.report import Comparison, Facts, Report
from mlops_assets.orchestrate.llm.evaluation_step import UNHASHED
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform

PROJECT = ROOT / "bench" / "projects" / "llm_evaluation_project.py"
COMMAND = [str(BIN / "mlops"), "run", "-f", str(PROJECT)]
TABLE = "evaluation/replies"
RESUMED, RESTARTED, WHOLE = "resumed", "restarted", "not killed"
FAIR = [
    f"{CASES} cases, {CONCURRENCY} requests at once, of an endpoint that takes {ANSWER_SECONDS * 1000:.0f} ms. `mlops run` is killed with SIGKILL when half of the requests are answered; a figure is the second `mlops run`, from its start to its exit.",
    "Restarted is no other tool: it is `mlops run` again in the same home after the same kill, with its stored answers deleted. It shows what the stored answers save.",
]
NOTES = [
    "Requests that the endpoint answered, those before the kill included. At the kill, answers may be on their way.",
    "The rows are compared without times and origins of the answers.",
]


def run(*, full: bool) -> Report:
    """Run the whole benchmark; ``full`` takes more rounds."""
    home, rounds = scratch("llm_evaluation"), 5 if full else 2
    seconds = {name: Samples() for name in (RESUMED, RESTARTED, WHOLE)}
    paid: dict[str, list[int]] = {name: [] for name in seconds}
    wrong = []
    with run_endpoint(ANSWER_SECONDS) as url:
        for number in range(rounds):
            found = {}
            for name, samples in seconds.items():
                folder, before = home / f"{name}-{number}", count_requests(url)
                if name != WHOLE:
                    kill_halfway(folder, url)
                if name == RESTARTED:
                    shutil.rmtree(folder / "llm")
                samples.seconds.append(timed(COMMAND, env=build_environment(folder, url)))
                paid[name].append(count_requests(url) - before)
                found[name] = read_rows(folder)
            wrong += [f"other rows when {name}" for name in found if not found[name].equals(found[WHOLE])]
    if max(paid[RESUMED]) > CASES + CONCURRENCY:
        wrong.append(f"resumed, {max(paid[RESUMED])} requests were paid for {CASES} cases")
    rows = [(name, CASES, ", ".join(map(str, counts)), f"{max(counts) / CASES - 1:+.1%}") for name, counts in paid.items()]
    tables = [
        Comparison("After a kill", RESUMED, {"complete the evaluation": seconds}, FAIR),
        Facts("Paid requests", ("", "cases", "requests, by round", "more than cases, at most"), rows, NOTES, wrong),
    ]
    return Report("llm_evaluation", "A killed evaluation", tables, installed(BIN / "python", "mlops_assets", "httpx", "dagster"))


def build_environment(folder: Path, url: str) -> dict[str, str]:
    """Return the environment of a run."""
    return environment(MLOPS_HOME=str(folder), BENCH_CHAT_URL=url, PYTHONPATH=str(ROOT))


def count_requests(url: str) -> int:
    """Return how many requests were answered, once those of a killed client have been."""
    time.sleep(2 * ANSWER_SECONDS)
    return int(httpx.get(url).json()["requests"])


def kill_halfway(folder: Path, url: str) -> None:
    """Run the project, and kill it when half of the cases are answered."""
    aim, ends = count_requests(url) + CASES // 2, time.monotonic() + PATIENCE
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = build_environment(folder, url)
    with httpx.Client() as client, subprocess.Popen(COMMAND, cwd=ROOT, env=env, start_new_session=True, **output) as process:
        while int(client.get(url).json()["requests"]) < aim:
            if process.poll() is not None or time.monotonic() > ends:
                process.kill()
                raise ContenderError(f"the run ended with exit code {process.wait()} before half of its cases were answered")
            time.sleep(ANSWER_SECONDS / 10)
        os.killpg(process.pid, signal.SIGKILL)
    if open_stores(Platform.at(folder)).lake.records(TABLE):
        raise ContenderError("the run was complete before it was killed")


def read_rows(folder: Path) -> pl.DataFrame:
    """Return the rows of an evaluation that do not depend on when and whence answers came."""
    return open_stores(Platform.at(folder)).lake.read(TABLE).drop(UNHASHED, strict=False).sort("case")
