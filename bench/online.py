"""What a look into the online store costs: ours on LMDB and Redis against Feast on SQLite and Redis; values compared before a time counts."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.harness import BIN, ContenderError, Samples, Worker, alternate, environment, output, peer, scratch
from bench.harness import versions as installed
from bench.report import Comparison, Facts, Report, ratio, seconds

FEAST = "feast[redis]==0.67.0"
SHARED = ("hiredis", "redis")
ROUNDS = 7
OURS = "ours"
ONE, MANY, WRITE = "1 entity, p50", "100 entities, p50", "write 30,000 rows"
READS = {ONE: (1, 400, 4000), MANY: (100, 40, 400)}  # entities, reads in a round of Feast's and of ours
TARGETS = {"LMDB": {ONE: 10e-6, MANY: 250e-6}, "Redis": {ONE: 8.0, MANY: 28.0}}  # seconds; times as fast as Feast
FAIR = [
    "10,000 entities, 3 views of 5 features (floats and whole numbers), one row for each entity and view, written once before reading.",
    "A read gives all 15 features of random entities, with status and age; ours enforces the ttl, Feast does not.",
    "Feast: `get_online_features(...).to_dict()` and `write_to_online_store` of a pandas frame; ours: `reader.one`, `reader.many`, and `replace` of a layout.",
    "Before a time counted, 300 random entities were read from all stores, and every value compared.",
    "Both use redis-py with hiredis (Feast asks for an older redis-py than ours is tested with), over the same loopback to the same server, in databases of their own.",
]


def run(*, full: bool) -> Report:  # noqa: ARG001  (nothing here grows)
    """Run the whole benchmark."""
    home = scratch("online")
    feast = peer("online-feast", FEAST)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_redis(home))
        commands = {
            ("LMDB", OURS): [str(BIN / "python"), "-m", "bench.projects.online_ours", str(home / "lmdb")],
            ("LMDB", "Feast, SQLite"): [str(feast), "-m", "bench.projects.online_feast", str(_folder(home / "sqlite"))],
            ("Redis", OURS): [str(BIN / "python"), "-m", "bench.projects.online_ours", f"redis://127.0.0.1:{port}/0"],
            ("Redis", "Feast, Redis"): [
                str(feast),
                "-m",
                "bench.projects.online_feast",
                str(_folder(home / "redis")),
                f"127.0.0.1:{port},db=1",
            ],
        }
        quiet = environment(FEAST_USAGE="False", FEAST_TELEMETRY="False")
        workers = {name: Worker(command, env=quiet) for name, command in commands.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        tables, ours = _compared(workers), {store: workers[store, OURS] for store in ("LMDB", "Redis")}
        facts = [_speed(ours), _targets(tables)]
    versions = {
        f"{n} (ours)" if n == "mlops_assets" else n: v for n, v in installed(BIN / "python", "mlops_assets", "lmdb", *SHARED).items()
    }
    versions |= {f"{n} (Feast)" if n != "feast" else n: v for n, v in installed(feast, "feast", *SHARED).items()} | {
        "redis-server": _server_version()
    }
    return Report("online", "Online reads and writes, 15 features in 3 views", [*tables.values(), *facts], versions)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@contextlib.contextmanager
def _redis(home: Path) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _server_version() -> str:
    return output(["redis-server", "--version"]).split("v=")[1].split()[0]


def _compared(workers: Mapping[tuple[str, str], Worker]) -> dict[str, Comparison]:
    written = {name: worker.ask(do="write") for name, worker in workers.items()}
    wanted = workers["LMDB", OURS].ask(do="values", seed=7, count=300)["values"]
    wrong = {
        n: "it gave back other values" for n, worker in workers.items() if worker.ask(do="values", seed=7, count=300)["values"] != wanted
    }
    assert written
    tables = {}
    for store in ("LMDB", "Redis"):
        mine = {name: worker for (place, name), worker in workers.items() if place == store}
        rows = {label: _reads(mine, *how) for label, how in READS.items()}
        rows[WRITE] = alternate({name: lambda w=worker: w.ask(do="write")["seconds"] for name, worker in mine.items()}, rounds=3, warm=1)
        for name in mine:
            for row in rows.values():
                row[name].failure = row[name].failure or wrong.get((store, name))
        tables[store] = Comparison(f"{store} against Feast", OURS, rows, FAIR if store == "LMDB" else ())
    return tables


def _reads(workers: Mapping[str, Worker], count: int, theirs: int, ours: int) -> dict[str, Samples]:
    def read(name: str) -> float:
        return float(workers[name].ask(do="reads", count=count, times=ours if name == OURS else theirs)["seconds"])

    return alternate({name: lambda n=name: read(n) for name in workers}, rounds=ROUNDS)


def _speed(ours: Mapping[str, Worker]) -> Facts:
    """Return how fast ours writes."""
    kinds: dict[str, dict[str, Any]] = {
        "a whole view, one row an entity": {},
        "a whole view, ten rows an entity": {"rows": 10},
        "a whole view, one row an entity, the layout included": {"layout": False},
        "the same rows again, merged": {"how": "update"},
    }
    lines = []
    for label, how in kinds.items():
        lines.append((label, *(f"{_rate(worker, how):,.0f}" for worker in ours.values())))
        for worker in ours.values():
            worker.ask(do="write")
    return Facts(
        "Rows a second that ours writes", ("", *ours), lines, ["30,000 rows (300,000 where an entity has ten); the median of seven."]
    )


def _rate(worker: Worker, how: Mapping[str, Any]) -> float:
    answers = [worker.ask(do="write", **how) for _ in range(7)]
    return float(sorted(answer["rows"] / answer["seconds"] for answer in answers)[3])


def _targets(tables: Mapping[str, Comparison]) -> Facts:
    lines, wrong = [], list[str]()
    for store, wanted in TARGETS.items():
        for label, target in wanted.items():
            row = tables[store].rows[label]
            peer_ = next(name for name in row if name != OURS)
            if store == "LMDB":
                median, met = row[OURS].median, (row[OURS].median or 1) <= target
                lines.append((f"{store}, {label}", f"≤ {seconds(target)}", seconds(median or 0), "yes" if met else "no"))
            else:
                times = ratio(row[peer_], row[OURS]) or 0
                lines.append((f"{store}, {label}", f"≥ {target:.0f}× Feast", f"{times:.0f}×", "yes" if times >= target else "no"))
    if not lines:
        raise ContenderError("nothing was measured")
    return Facts("Targets", ("", "target", "measured", "met"), lines, ["Seconds depend on the machine and on who else uses it."], wrong)
