"""What an answer over HTTP costs: our service against bare uvicorn, FastAPI, BentoML and MLflow with the same model, one worker each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import BIN, ROOT, ContenderError, Samples, Worker, environment, output, peer, scratch
from bench.harness import versions as installed
from bench.report import Comparison, Facts, Report, seconds

PYTHON = str(BIN / "python")
PROJECTS = ROOT / "bench" / "projects"
SHARED = ("scikit-learn", "numpy", "scipy", "joblib", "pandas")  # the same as ours, so that the stored model means the same
FASTAPI = ("fastapi==0.165.0", "uvicorn==0.54.0", "httptools==0.9.0", "uvloop==0.23.0")
BENTOML = ("bentoml==1.4.40",)
MLFLOW = ("mlflow==3.17.0",)
OURS, BARE, FAST, BENTO, FLOW = "ours", "bare uvicorn", "FastAPI + sklearn", "BentoML + sklearn", "MLflow serve"
ROUNDS = 3
TOLERANCE = 1e-9
AWAKE = 120  # seconds that a server may take to answer for the first time


@dataclass(frozen=True)
class Workload:
    """Requests of one kind.

    Parameters
    ----------
    rows, connections
        Of a request, and at once.
    requests
        In one round, by contender.
    """

    rows: int
    connections: int
    requests: Mapping[str, int]

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return f"{self.rows} row{'s' * (self.rows > 1)}, {self.connections} connection{'s' * (self.connections > 1)}"


WORKLOADS = (
    Workload(1, 1, {OURS: 1500, BARE: 1500, FAST: 300, BENTO: 150, FLOW: 80}),
    Workload(1, 32, {OURS: 4000, BARE: 4000, FAST: 640, BENTO: 320, FLOW: 160}),
    Workload(1000, 1, {OURS: 34, BARE: 34, FAST: 20, BENTO: 20, FLOW: 20}),
    Workload(1000, 32, {OURS: 64, BARE: 64, FAST: 64, BENTO: 64, FLOW: 64}),
)


@dataclass(frozen=True)
class Contender:
    """A server, started.

    Parameters
    ----------
    port
        Where it listens.
    path, body_key, reply_format
        The path of requests, the key of the rows in a request (none: the body is the rows), and how the reply holds the probabilities; see the client.
    """

    port: int
    path: str = "/predict"
    body_key: str | None = None
    reply_format: str = "plain"


Bursts = dict[tuple[str, str], list[dict[str, Any]]]  # workload and contender → rounds


def run(*, full: bool) -> Report:  # noqa: ARG001  (nothing here grows)
    """Run the whole benchmark."""
    home, before = scratch("serving"), os.getloadavg()
    pythons = _peers()
    output([PYTHON, "-m", "bench.projects.serving_ours", "make", str(home)], env=_env(home))
    with contextlib.ExitStack() as stack:
        client = Worker([PYTHON, "-m", "bench.projects.serving_client"], env=environment())
        stack.callback(client.close)
        ours = _start_ours(home, stack)
        contenders, failures = _start_peers(home, pythons, client, stack)
        _aim(OURS, Contender(_port_of(ours["url"]), reply_format="named"), client, home)
        differences = {name: _checked(name, client, failures) for name in (OURS, *contenders)}
        bursts = _measure(client, (OURS, *contenders), failures)
        logged = _ours("stop", home)["logged"]
    rows = sum(burst["requests"] * w.rows for w in WORKLOADS for burst in bursts[w.name, OURS]) + _asked_first(home)
    tables = [_latencies(bursts, failures), _rates(bursts, failures), _targets(bursts, failures)]
    tables.append(
        _circumstances([("our predictor", ours["predictor"]), *_client(bursts)], differences, (logged, rows), (before, os.getloadavg()))
    )
    shutil.rmtree(home)
    return Report("serving", "Serving, one worker, 14 features, HistGradientBoosting", tables, _versions(pythons))


def _peers() -> dict[str, Path]:
    pins = tuple(f"{name}=={version}" for name, version in installed(BIN / "python", *SHARED).items())
    return {
        name: peer(f"serving-{name}", *wanted, *pins) for name, wanted in {"fastapi": FASTAPI, "bentoml": BENTOML, "mlflow": MLFLOW}.items()
    }


def _versions(pythons: Mapping[str, Path]) -> dict[str, str]:
    ours = installed(BIN / "python", "mlops_assets", "uvicorn", "scikit-learn", "numpy")
    versions = {f"{name} (ours)" if name == "mlops_assets" else name: version for name, version in ours.items()}
    return versions | {name: installed(python, name)[name] for name, python in pythons.items()}


def _env(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of every server: numerical libraries use one thread, as one worker of several on a machine would."""
    return environment(OMP_NUM_THREADS="1", BENCH_MODEL=str(home / "model.joblib"), **more)


def _ours(do: str, home: Path) -> dict[str, Any]:
    return json.loads(output([PYTHON, "-m", "bench.projects.serving_ours", do, str(home)], env=_env(home)))


def _start_ours(home: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    stack.callback(_ours, "stop", home)
    return _ours("start", home)


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _start_peers(home: Path, pythons: Mapping[str, Path], client: Worker, stack: contextlib.ExitStack) -> tuple[list[str], dict[str, str]]:
    """Start bare uvicorn and every peer; return their names, and why those that did not start did not."""
    starts: dict[str, Callable[[int], tuple[list[str], dict[str, str], Contender]]] = {
        BARE: lambda port: _bare(port, home),
        FAST: lambda port: _fastapi(port, home, pythons["fastapi"]),
        BENTO: lambda port: _bentoml(port, home, pythons["bentoml"]),
        FLOW: lambda port: _mlflow(port, home, pythons["mlflow"]),
    }
    failures: dict[str, str] = {}
    for name, make in starts.items():
        try:
            line, env, contender = make(_free_port())
            log = home / f"{name.split()[0].lower()}.log"
            process = stack.enter_context(_server(line, env, log))
            _aim(name, contender, client, home)
            _await(name, client, process, log)
        except ContenderError as error:
            failures[name] = str(error)
    return list(starts), failures


def _uvicorn(app: str, port: int) -> list[str]:
    return ["-m", "uvicorn", app, "--port", str(port), "--workers", "1", "--no-access-log", "--loop", "uvloop", "--http", "httptools"]


def _bare(port: int, home: Path) -> tuple[list[str], dict[str, str], Contender]:
    least = ["--lifespan", "off", "--no-proxy-headers", "--no-server-header", "--no-date-header"]
    return [PYTHON, *_uvicorn("bench.projects.serving_bare:app", port), *least], _env(home), Contender(port, reply_format="constant")


def _fastapi(port: int, home: Path, python: Path) -> tuple[list[str], dict[str, str], Contender]:
    return [str(python), *_uvicorn("bench.projects.serving_fastapi:app", port)], _env(home), Contender(port)


def _bentoml(port: int, home: Path, python: Path) -> tuple[list[str], dict[str, str], Contender]:
    env = _env(home, BENTOML_HOME=str(home / "bentoml"), BENTOML_DO_NOT_TRACK="True")
    line = [str(python), "-m", "bentoml", "serve", "serving_bento:Lateness", "--working-dir", str(PROJECTS)]
    return [*line, "--host", "127.0.0.1", "--port", str(port)], env, Contender(port, body_key="rows")


def _mlflow(port: int, home: Path, python: Path) -> tuple[list[str], dict[str, str], Contender]:
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.sqlite'}"}
    env = _env(home, PATH=os.pathsep.join((str(python.parent), os.environ["PATH"])), **quiet)  # it calls uvicorn by its name
    model = str(home / "mlflow")
    output([str(python), "-m", "bench.projects.serving_mlflow", str(home / "model.joblib"), str(home / "rows.json"), model], env=env)
    line = [str(python), "-m", "mlflow", "models", "serve", "--model-uri", model, "--env-manager", "local", "--workers", "1"]
    return [*line, "--host", "127.0.0.1", "--port", str(port)], env, Contender(port, "/invocations", "dataframe_records", "pairs")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _server(line: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as the head of its own group of processes; afterwards none of the group is left."""
    with log.open("wb") as said:
        process = subprocess.Popen(line, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            until = time.monotonic() + 15
            while _group_lives(process) and time.monotonic() < until:
                time.sleep(0.1)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _aim(name: str, contender: Contender, client: Worker, home: Path) -> None:
    where = {"port": contender.port, "path": contender.path, "body_key": contender.body_key, "reply_format": contender.reply_format}
    client.ask(do="aim", name=name, rows=str(home / "rows.json"), **where)


def _await(name: str, client: Worker, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers a row."""
    until = time.monotonic() + AWAKE
    while True:
        try:
            client.ask(do="awake", name=name)
        except ContenderError as error:
            if process.poll() is not None or time.monotonic() > until:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                raise ContenderError(f"it does not answer: {error}; {' | '.join(said)}"[:400]) from error
            time.sleep(0.3)
        else:
            return


def _checked(name: str, client: Worker, failures: dict[str, str]) -> float | None:
    """Return the greatest difference from the model's own probabilities; figures of who differs do not count."""
    if name in failures:
        return None
    try:
        difference = client.ask(do="check", name=name)["difference"]
    except ContenderError as error:
        failures[name] = f"it cannot be checked: {error}"
        return None
    if difference is not None and not difference <= TOLERANCE:
        failures[name] = f"its probabilities differ by {difference:.2g}"
    return difference


def _measure(client: Worker, names: Sequence[str], failures: dict[str, str]) -> Bursts:
    """Send every workload to every contender in turns."""
    bursts: Bursts = {(workload.name, name): [] for workload in WORKLOADS for name in names}
    for workload in WORKLOADS:
        for turn in range(ROUNDS):
            for name in names:
                if name in failures:
                    continue
                what = {"connections": workload.connections, "total": workload.requests[name], "size": workload.rows}
                try:
                    bursts[workload.name, name].append(client.ask(do="burst", name=name, **what))
                except ContenderError as error:
                    failures[name] = f"{workload.name}: {error}"
            print(f"serving: {workload.name}, round {turn + 1} of {ROUNDS}", flush=True)
    return bursts


def _asked_first(home: Path) -> int:
    """Return the rows that the check sent us: each by itself, then all at once."""
    return 2 * len(json.loads((home / "rows.json").read_text(encoding="utf-8"))["expected"])


def _latencies(bursts: Bursts, failures: Mapping[str, str]) -> Comparison:
    rows: dict[str, dict[str, Samples]] = {}
    for (workload, name), rounds in bursts.items():
        for what in ("p50", "p99"):
            samples = Samples([burst[what] for burst in rounds], failures.get(name))
            rows.setdefault(f"{workload}, {what}", {})[name] = samples
    notes = [
        "Ours is the service as `mlops serve start` starts it, but with one worker: validation, the prediction log (written before the reply) and metrics on.",
        (
            "All have the same stored pipeline (OrdinalEncoder for 2 columns of text, 12 numbers, 120 trees of 15 leaves) and one worker; "
            "numerical libraries use one thread everywhere. The peers validate as they do by themselves and log no prediction."
        ),
        (
            "FastAPI: pydantic rows, one DataFrame a request, no access log. BentoML: an API that takes a DataFrame. "
            "MLflow: `mlflow models serve --env-manager local` of a model with a signature."
        ),
        (
            "Bare uvicorn reads the body and answers with a constant: the limit. "
            "At 1000 rows it neither parses nor makes a reply of 1000 rows."
        ),
        (
            "Closed loop over kept connections, from one process in Python that shares the machine with the server; "
            "what a request costs the client itself is named below: no server can look faster than that."
        ),
    ]
    return Comparison("Latency", OURS, rows, notes)


def _rates(bursts: Bursts, failures: Mapping[str, str]) -> Facts:
    names = list(dict.fromkeys(name for _, name in bursts))
    rows = []
    for workload in WORKLOADS:
        bare = _figures(bursts, workload.name, BARE, "a_second")
        cells = []
        for name in names:
            mine = _figures(bursts, workload.name, name, "a_second")
            share = _ratio(mine, bare)
            cells.append("failed" if name in failures else f"{median(mine):,.1f} · {share:.3g}×" if share else f"{median(mine):,.1f}")
        rows.append((workload.name, *cells))
    return Facts(
        "Requests a second", ("", *names), rows, ["× here is the share of what bare uvicorn answers, the median of the rounds' ratios."]
    )


def _figures(bursts: Bursts, workload: str, name: str, what: str) -> list[float]:
    return [burst[what] for burst in bursts.get((workload, name), [])]


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the median of the rounds' ratios; None when a round is missing."""
    return median(a / b for a, b in zip(mine, theirs, strict=True)) if mine and len(mine) == len(theirs) else None


def _targets(bursts: Bursts, failures: Mapping[str, str]) -> Facts:
    """Say how far we are from what we want; a gap is a finding, not a failure."""
    single, many = WORKLOADS[0].name, WORKLOADS[1].name
    wanted = [
        (f"{single}, p50, of bare uvicorn", BARE, single, "p50", 1.5),
        (f"{single}, p50, of BentoML", BENTO, single, "p50", 1 / 30),
        (f"{single}, p50, of MLflow", FLOW, single, "p50", 1 / 60),
        (f"{many}, requests a second, of bare uvicorn", BARE, many, "a_second", 0.5),
    ]
    rows = []
    for label, name, workload, what, target in wanted:
        mine, theirs = (_figures(bursts, workload, who, what) for who in (OURS, name))
        found = None if {name, OURS} & failures.keys() else _ratio(mine, theirs)
        least = what == "a_second"
        bound = f"{'≥' if least else '≤'} {_times(target)}"
        if found is None:
            rows.append((label, bound, "unknown", "–", "unknown"))
            continue
        each = sorted(a / b for a, b in zip(mine, theirs, strict=True))
        short = target / found if least else found / target
        gap = "met" if short <= 1 else f"{short:.3g}× too {'few' if least else 'long'}"
        rows.append((label, bound, _times(found), f"{_times(each[0])} – {_times(each[-1])}", gap))
    notes = [
        "Ratios within a round; found is the median of the rounds.",
        "On a machine that others use too, they also differ from run to run; the load average is named below.",
    ]
    return Facts("Ours against the targets", ("", "target", "found", "rounds from – to", "gap"), rows, notes)


def _times(value: float) -> str:
    return f"{value:.2f}×" if value >= 0.1 else f"1/{1 / value:.0f}"


def _client(bursts: Bursts) -> list[tuple[str, str]]:
    """Say what a request costs the client."""
    each = {(w.name, name): _figures(bursts, w.name, name, "client") for w in WORKLOADS[:2] for name in (OURS, BARE)}
    return [(f"the client's own CPU time a request, {w}, {name}", seconds(median(took))) for (w, name), took in each.items() if took]


def _circumstances(
    rows: list[tuple[str, str]],
    differences: Mapping[str, float | None],
    logged: tuple[int, int],
    load: tuple[tuple[float, ...], tuple[float, ...]],
) -> Facts:
    rows += [
        (f"greatest difference of a probability, {name}", "not checked" if d is None else f"{d:.1g}")
        for name, d in differences.items()
        if name != BARE
    ]
    rows.append(("rows that we logged, of those answered", f"{logged[0]:,} of {logged[1]:,}"))
    rows += [
        (f"load average over 1, 5, 15 minutes, {when}", ", ".join(f"{x:.1f}" for x in given))
        for when, given in zip(("before", "after"), load, strict=True)
    ]
    wrong = [] if logged[0] == logged[1] else [f"{logged[0]} rows were logged, {logged[1]} were answered"]
    return Facts(
        "What was checked", ("", "found"), rows, ["200 rows, each by itself and all in one request, against the pipeline itself."], wrong
    )
