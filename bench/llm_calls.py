"""What a client adds to a call of a language model, and what a trace costs: ours against httpx, openai, LiteLLM, MLflow and OpenTelemetry."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bench.harness import BIN, ContenderError, Samples, Worker, alternate, environment, peer, scratch
from bench.harness import versions as installed
from bench.llm_service import run_endpoint
from bench.projects.llm_work import ATTRIBUTES, PARAMETERS
from bench.report import Comparison, Facts, Report, ratio

REQUIREMENTS = ("openai==3.57.0", "litellm==1.110.2", "mlflow==3.17.0", "httpx==0.28.1")
ASK, TRACED, HTTPX, OPENAI, LITELLM, MLFLOW = "ours", "ours, traced", "httpx", "openai", "LiteLLM", "openai, MLflow autologging"
CLIENTS = {ASK: "ask", TRACED: "traced", HTTPX: "httpx", OPENAI: "openai", LITELLM: "litellm", MLFLOW: "mlflow"}
PLAIN, FILE, MEMORY, FLOW = "json.dumps and os.write", "OpenTelemetry SDK, to a file", "OpenTelemetry SDK, in memory", "MLflow"
BATCHES, BACKGROUND = "OpenTelemetry SDK, batches to a file", "OpenTelemetry SDK, batches in the background"
TRACERS = {
    ASK: "ours",
    PLAIN: "plain",
    FILE: "otel_file",
    MEMORY: "otel_memory",
    BATCHES: "otel_batches",
    BACKGROUND: "otel_background",
    FLOW: "mlflow",
}
OURS = ("ask", "traced", "httpx", "ours", "plain")  # in our own environment
CALLS, TRACES, WARM = 100, {"mlflow": 50}, 2
FEW, MANY = 9, 500  # rounds; traces in a round
FAIR_CALLS = [
    "The same messages and parameters go to the same endpoint, a process that replies at once. One process for each client, one call after the other on a kept connection; a figure is the median call of a round.",
    "Ours is `ml.llm.ask`: it checks the variables, builds the messages, and allows two retries, as openai and LiteLLM do. httpx sends messages that are built before, and reads the JSON.",
    "Traced: model, tokens, input and output, written to the log before the call returns. MLflow autologging records the same; its thread stores them in SQLite later, and is waited for between rounds, outside of the time.",
    "Before a time counted, the endpoint received equal messages and parameters from all, and all returned equal text and usage.",
]
FAIR_TRACES = [
    f"A trace is one span with {len(ATTRIBUTES)} attributes. A figure is the mean of a round of {MANY} traces, {TRACES['mlflow']} of MLflow, whose SQLite is waited for between rounds, outside of the time.",
    "Ours is `ml.llm.start_trace`: ids, times, a checksum, one system call before it returns, and a sync to the disk every 100 ms. The plain append has none of these but the system call.",
    "OpenTelemetry's batches are those of its `BatchSpanProcessor`, to the same file. Its queue is flushed within the time; in the background it is flushed between rounds, outside of the time, as that of MLflow. A kill loses what is in the queue.",
    "Every trace was found afterwards, with equal attributes.",
]


def run(*, full: bool) -> Report:
    """Run the whole benchmark; ``full`` takes more rounds."""
    home, python = scratch("llm_calls"), peer("llm-clients", *REQUIREMENTS)
    rounds = 20 if full else FEW
    with run_endpoint() as url, contextlib.ExitStack() as stack:
        start = partial(_start, stack, python, home)
        first = start("ask", url)
        messages = json.dumps(first.ask(do="messages")["messages"])
        others = {name: start(contender, url, messages) for name, contender in CLIENTS.items() if name != ASK}
        clients = {ASK: first, **others}
        _check_answers(clients, url)
        calls = Comparison("One call", ASK, {"a call": alternate(_time(clients, "call", CALLS), rounds=rounds, warm=WARM)}, FAIR_CALLS)
        kept = _count_traced(clients, calls.rows["a call"], 1 + (rounds + WARM) * CALLS)
    with contextlib.ExitStack() as stack:
        tracers = {name: _start(stack, python, home, contender) for name, contender in TRACERS.items()}
        traces = alternate(_time(tracers, "record", MANY), rounds=rounds, warm=WARM)
        wrong = _compare_traces(tracers, rounds + WARM)
    table = Comparison("One trace", ASK, {"record a trace": traces}, FAIR_TRACES)
    table.rows["record a trace"][ASK].failure = "; ".join(wrong) or None
    versions = installed(BIN / "python", "mlops_assets") | installed(python, "httpx", "openai", "litellm", "mlflow", "opentelemetry-sdk")
    return Report(
        "llm_calls", "Calls of a language model and their traces", [calls, _list_added(calls), kept, table, _compare(calls)], versions
    )


def _start(stack: contextlib.ExitStack, python: Path, home: Path, contender: str, *arguments: str) -> Worker:
    """Start the process of a contender; those that only trace get neither URL nor messages."""
    folder = Path(tempfile.mkdtemp(prefix=f"{contender}-", dir=home))
    is_ours = contender in OURS
    module = f"bench.projects.llm_{'ours' if is_ours else 'peers'}"
    quiet = environment(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", LITELLM_LOCAL_MODEL_COST_MAP="True")
    worker = Worker([str(BIN / "python" if is_ours else python), "-m", module, contender, str(folder), *arguments], env=quiet)
    stack.callback(worker.close)
    return worker


def _time(workers: Mapping[str, Worker], question: str, times: int) -> dict[str, Callable[[], float]]:
    def ask(name: str, worker: Worker) -> float:
        count = TRACES["mlflow"] if question == "record" and name == FLOW else times
        seconds = float(worker.ask(do=question, times=count)["seconds"])
        if name in (FLOW, MLFLOW, BACKGROUND):
            worker.ask(do="flush")
        return seconds

    return {name: partial(ask, name, worker) for name, worker in workers.items()}


def _check_answers(clients: Mapping[str, Worker], url: str) -> None:
    """Compare what the clients send and return; another request or answer than ours fails the benchmark."""
    found: dict[str, Any] = {}
    for name, worker in clients.items():
        answer = worker.ask(do="answer")["answer"]
        sent = httpx.get(url).json()["last"]
        found[name] = (list(answer), sent["messages"], {key: sent.get(key) for key in PARAMETERS})
    for name, value in found.items():
        if value != found[ASK]:
            raise ContenderError(f"{name} sends or returns {value}, ours {found[ASK]}")


def _count_traced(clients: Mapping[str, Worker], samples: Mapping[str, Samples], calls: int) -> Facts:
    rows, wrong = [], []
    for name in (name for name in (TRACED, MLFLOW) if samples[name].failure is None):
        traces = clients[name].ask(do="traces")
        text = traces["last"]["mlops.output"] if name == TRACED else traces["outputs"]["choices"][0]["message"]["content"]
        rows.append((name, calls, traces["count"], text))
        wrong += [f"{name}: {traces['count']} traces of {calls} calls"] if traces["count"] != calls or text != "yes" else []
    return Facts("Traces of these calls", ("", "calls", "traces", "output of the last"), rows, [], wrong)


def _compare_traces(tracers: Mapping[str, Worker], rounds: int) -> list[str]:
    """Return which tracers lost or changed a trace."""
    wrong = []
    for name, worker in tracers.items():
        traces, expected = worker.ask(do="traces"), rounds * (TRACES["mlflow"] if name == FLOW else MANY)
        if traces["count"] != expected or traces["last"] != ATTRIBUTES:
            wrong.append(f"{name} has {traces['count']} of {expected} traces, the last with {traces['last']}")
    return wrong


def _list_added(table: Comparison) -> Facts:
    row = table.rows["a call"]
    lines = [(name, f"{_subtract(each, row[HTTPX]) * 1000:+.2f}") for name, each in row.items() if name != HTTPX and each.failure is None]
    return Facts("Added to a call of httpx", ("", "ms"), lines, ["The median over rounds of the difference."])


def _subtract(samples: Samples, base: Samples) -> float:
    return median(mine - theirs for mine, theirs in zip(samples.seconds, base.seconds, strict=True))


def _compare(calls: Comparison) -> Facts:
    """Compare the ratios with the targets: no slower than the official client, and a trace cheaper than autologging."""
    row, lines = calls.rows["a call"], []
    for mine, theirs in ((ASK, OPENAI), (ASK, LITELLM), (TRACED, OPENAI), (TRACED, MLFLOW)):
        times = ratio(row[mine], row[theirs])
        measured = ("–", "no") if times is None else (f"{times:.2g}×", "yes" if times <= 1 else "no")
        lines.append((f"{mine} against {theirs}", "≤ 1×", *measured))
    wrong = [f"{label}: {measured[0]}" for label, _, *measured in lines if measured[1] == "no"]
    return Facts("Targets", ("", "target", "measured", "met"), lines, [], wrong)
