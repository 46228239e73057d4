"""How fast the pages of the console are, on a platform with 10,000 runs and 1,000 versions: the first request of a server, and later ones."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from statistics import median

from bench.harness import BIN, ROOT, ContenderError, environment, output, scratch
from bench.harness import versions as installed
from bench.report import Facts, Report, seconds

MOST = 0.3  # seconds of the first page
PROJECT = "bench/projects/console_project.py"
FRONT = "front page"
PAGES = {
    FRONT: "/",
    "models": "/models",
    "a model with 700 versions": "/models/buyer",
    "a version": "/models/buyer/versions/700",
    "two versions compared": "/models/buyer/compare?version=1&version=2",
    "runs, newest first": "/runs",
    "runs, by a metric": "/runs?order=metrics.roc_auc+desc",
    "runs, by a parameter": "/runs?order=params.C+desc",
    "runs, filtered": "/runs?where=metrics.roc_auc+%3E+0.9+and+params.depth+%3D+3&order=metrics.recall+desc",
    "a run with curves": f"/runs/{0:032x}",
    "two runs with curves compared": f"/runs/compare?run={0:032x}&run={1:032x}",
    "monitors": "/monitors",
    "a monitor with 300 windows": "/monitors/watch",
    "a window": "/monitors/watch/windows/2024-10-20",
    "services": "/services",
    "features": "/features",
    "a feature view of 150,000 rows": "/features/crowds",
    "replays": "/replays",
}
FAIR = [
    "10,000 runs of five parameters and five metrics, 1,000 versions with three gates each, a monitor with 300 windows of two reports, a table of 150,000 rows. SQLite and DuckLake on the disk.",
    "`mlops ui --console-only` as a user starts it. First: the first request of that page to a new server, the front page before all others; the maximum of the servers. Later: the median of five more requests to each server.",
    "A page counts when its status is 200. Seconds differ from machine to machine; the target holds for the first page.",
]


def run(*, full: bool) -> Report:
    """Run the benchmark; ``full`` starts more servers."""
    home = scratch("console")
    env = environment(MLOPS_HOME=str(home), PYTHONPATH=str(ROOT), DAGSTER_DISABLE_TELEMETRY="1")
    output([str(BIN / "python"), "-W", "ignore", "-m", "bench.projects.console_platform"], env=env)
    first: dict[str, list[float]] = {name: [] for name in PAGES}
    later: dict[str, list[float]] = {name: [] for name in PAGES}
    for _ in range(5 if full else 3):
        with _server(env) as url:
            for name, path in PAGES.items():
                first[name].append(_load(url + path))
                later[name] += [_load(url + path) for _ in range(5)]
    rows = [(name, seconds(max(first[name])), seconds(median(later[name]))) for name in PAGES]
    slowest = max(first[FRONT])
    target = [("the first page", f"≤ {MOST * 1000:.0f} ms", seconds(slowest), "yes" if slowest <= MOST else "no")]
    return Report(
        "console",
        "Pages of the console",
        [Facts("Pages", ("", "first request", "later requests"), rows, FAIR), Facts("Target", ("", "target", "measured", "met"), target)],
        installed(BIN / "python", "mlops_assets", "starlette", "jinja2", "sqlalchemy", "duckdb"),
    )


@contextlib.contextmanager
def _server(env: Mapping[str, str]) -> Iterator[str]:
    """Run the console in a process of its own; yield its address once it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(BIN / "mlops"), "ui", "--console-only", "--console-port", str(port), "-f", PROJECT]
    with subprocess.Popen(command, cwd=ROOT, env=dict(env), stderr=subprocess.DEVNULL) as process:
        try:
            _wait(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a port accepts connections; no page is requested."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise ContenderError(f"the console does not answer (pid {process.pid}, {os.strerror(process.returncode or 0)})")


def _load(url: str) -> float:
    begun = time.perf_counter()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  (our own server)
            answer.read()
    except OSError as error:
        raise ContenderError(f"{url}: {error}") from error
    return time.perf_counter() - begun
