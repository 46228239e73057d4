"""The lake against plain Parquet files and Delta: one process and eight, warm and cold, few partitions and many."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness import BIN, ROOT, Contender, ContenderError, Samples, Worker, alternate, environment, output, peer, scratch, timed
from bench.harness import versions as installed
from bench.lake_growth import BUDGET, growth
from bench.report import Comparison, Report, Table

POLARS = "polars==2.1.0"  # as ours, so that all make and hand back the same frames
NUMPY = "numpy==2.4.6"
DELTALAKE = "deltalake==1.6.6"
PYARROW = "pyarrow==26.0.1"
ROWS = 50_000  # a partition
FIRST_DAYS = 10
ROUNDS, COLD_ROUNDS, FLEET_ROUNDS, FLEET_COLD_ROUNDS = 9, 5, 5, 2
FLEET = 8  # processes
OURS, PARQUET, DELTA, UNLOCKED = "the lake", "plain Parquet", "Delta", "Delta, no lock"
KINDS = {OURS: "ours", PARQUET: "parquet", DELTA: "delta", UNLOCKED: "delta-unlocked"}
FAIR = [
    f"A partition is one day of {ROWS:,} rows and 8 columns; every store gives and takes polars frames.",
    "Plain Parquet is a file a day, written beside and renamed: no transaction over two files, no versions, no way back, nothing to tell who wrote what.",
    "Delta is partitioned by day and replaces a day by predicate, as its documentation says; one lock is around each of its commits.",
    "Without that lock it stands in a column of its own, for the eight writers only: failed writes there are a finding.",
    "The lake also hashes the content of each write (rows sorted by key, sha256) and commits a record of it with the rows; the others do not.",
    "Cold is a process from start to exit, imports included; of eight processes, from the first start to the last exit.",
    "After all rounds everything was read back and compared, by a hash of all rows, with what had been written.",
]


@dataclass
class Entrant:
    """One store in the competition.

    Parameters
    ----------
    name
        In the table.
    python
        The interpreter of its environment.
    folder
        Where it keeps everything.
    held
        By day, which variant of its rows was written last.
    failed, tried
        Writes of the fleet.
    """

    name: str
    python: Path
    folder: Path
    held: dict[int, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    tried: int = 0

    def command(self, *question: str) -> list[str]:
        """Return the command of one of its processes."""
        return [str(self.python), "-m", "bench.lake_stores", KINDS[self.name], str(self.folder), *question]

    def worker(self) -> Worker:
        """Start a process that stays."""
        return Worker(self.command())

    def cold(self, **question: Any) -> float:
        """Time a process of its own for one question."""
        return timed(self.command(json.dumps(question)))

    def fresh(self, count: int) -> list[int]:
        """Return days that were not written yet."""
        first = max(self.held, default=-1) + 1
        return list(range(first, first + count))

    def wrote(self, days: list[int], variant: int = 0) -> None:
        """Remember what should be there."""
        self.held.update(dict.fromkeys(days, variant))

    def verify(self) -> None:
        """Compare everything that is there with everything that was written."""
        found = json.loads(output(self.command(json.dumps({"do": "check"}))))
        wanted = json.loads(output(self.command(json.dumps({"do": "expected", "days": self.held, "rows": ROWS}))))
        if found != wanted:
            raise ContenderError("it gave back other rows than were written")


def run(*, full: bool) -> Report:
    """Run the whole benchmark; ``full``: the year of twenty tables to its end, however long it takes."""
    parquet, delta = peer("parquet", POLARS, NUMPY), peer("delta", DELTALAKE, POLARS, NUMPY, PYARROW)
    pythons = {OURS: BIN / "python", PARQUET: parquet, DELTA: delta, UNLOCKED: delta}
    entrants = {name: Entrant(name, pythons[name], scratch(f"lake-{KINDS[name]}")) for name in KINDS}
    year = {name: Entrant(name, pythons[name], scratch(f"growth-{KINDS[name]}")) for name in (OURS, PARQUET, DELTA)}
    tables: list[Table] = [_speed(entrants), *growth(year, budget=None if full else BUDGET)]
    versions = {f"{name} (ours)": v for name, v in installed(BIN / "python", "mlops_assets", "duckdb", "polars").items()}
    versions |= installed(delta, "polars", "deltalake")
    return Report("lake", "The lake against plain Parquet and Delta", tables, versions)


def _speed(entrants: Mapping[str, Entrant]) -> Comparison:
    alone = {name: entrant for name, entrant in entrants.items() if name != UNLOCKED}
    rows = _warm(alone) | _cold(alone) | _fleet_warm(entrants) | _fleet_cold(entrants)
    for name, entrant in entrants.items():
        _judge([row[name] for row in rows.values() if name in row], entrant)
    return Comparison("Partitions", OURS, rows, FAIR, expected_to_fail=(UNLOCKED,))


def _judge(samples: list[Samples], entrant: Entrant) -> None:
    """Let figures count only when every write succeeded and every row is there."""
    failure = f"{len(entrant.failed)} of {entrant.tried} writes failed: {entrant.failed[0]}" if entrant.failed else None
    try:
        entrant.verify()
    except ContenderError as error:
        failure = str(error)
    for sample in samples:
        sample.failure = sample.failure or failure


def _warm(entrants: Mapping[str, Entrant]) -> dict[str, dict[str, Samples]]:
    """Time one process that has been at work for a while."""
    with _workers(entrants, 1) as fleets:
        workers = {name: fleet[0] for name, fleet in fleets.items()}
        for name, worker in workers.items():
            days = entrants[name].fresh(FIRST_DAYS)
            worker.ask(do="write", days=days, rows=ROWS)
            entrants[name].wrote(days)

        def each(action: Callable[[Entrant, Worker], float]) -> dict[str, Samples]:
            return alternate({name: lambda n=name: action(entrants[n], workers[n]) for name in entrants}, rounds=ROUNDS)

        return {
            "write a partition, warm": each(_write_new),
            "replace a partition, warm": each(_replace),
            "read a partition, warm": each(lambda _, worker: worker.ask(do="read", day=FIRST_DAYS - 1, rows=ROWS)["seconds"]),
            "read all partitions, warm": each(_read_all),
        }


def _write_new(entrant: Entrant, worker: Worker) -> float:
    days = entrant.fresh(1)
    seconds = worker.ask(do="write", days=days, rows=ROWS)["seconds"]
    entrant.wrote(days)
    return seconds


def _replace(entrant: Entrant, worker: Worker) -> float:
    variant = entrant.held[0] + 1
    seconds = worker.ask(do="write", days=[0], rows=ROWS, variant=variant)["seconds"]
    entrant.wrote([0], variant)
    return seconds


def _read_all(entrant: Entrant, worker: Worker) -> float:
    answer = worker.ask(do="read", day=None, rows=ROWS)
    if answer["rows"] != ROWS * len(entrant.held):
        raise ContenderError(f"{answer['rows']} rows of {ROWS * len(entrant.held)} were read")
    return answer["seconds"]


def _cold(entrants: Mapping[str, Entrant]) -> dict[str, dict[str, Samples]]:
    """Time processes from start to exit."""

    def write(entrant: Entrant) -> float:
        days = entrant.fresh(1)
        seconds = entrant.cold(do="write", days=days, rows=ROWS)
        entrant.wrote(days)
        return seconds

    writers: dict[str, Contender] = {name: lambda e=e: write(e) for name, e in entrants.items()}
    readers: dict[str, Contender] = {name: lambda e=e: e.cold(do="read", day=1, rows=ROWS) for name, e in entrants.items()}
    return {
        "write a partition, cold": alternate(writers, rounds=COLD_ROUNDS),
        "read a partition, cold": alternate(readers, rounds=COLD_ROUNDS),
    }


def _fleet_warm(entrants: Mapping[str, Entrant]) -> dict[str, dict[str, Samples]]:
    """Time eight processes that write, or read, a partition each at the same time."""
    _begin_unlocked(entrants[UNLOCKED])
    with _workers(entrants, FLEET) as fleets:
        writers: dict[str, Contender] = {name: lambda n=name: _all_write(entrants[n], fleets[n]) for name in entrants}
        readers: dict[str, Contender] = {name: lambda n=name: _all_read(fleets[n]) for name in entrants if name != UNLOCKED}
        return {
            f"{FLEET} processes write a partition each, warm": alternate(writers, rounds=FLEET_ROUNDS),
            f"{FLEET} processes read a partition each, warm": alternate(readers, rounds=FLEET_ROUNDS),
        }


def _begin_unlocked(entrant: Entrant) -> None:
    """Make the table before eight processes meet in it, as those of the others were."""
    days = entrant.fresh(FIRST_DAYS)
    output(entrant.command(json.dumps({"do": "write", "days": days, "rows": ROWS})))
    entrant.wrote(days)


def _all_write(entrant: Entrant, fleet: list[Worker]) -> float:
    days = entrant.fresh(len(fleet))
    begun = time.perf_counter()
    for day, worker in zip(days, fleet, strict=True):
        worker.tell(do="write", days=[day], rows=ROWS)
    for day, worker in zip(days, fleet, strict=True):
        _count(entrant, day, worker)
    return time.perf_counter() - begun


def _count(entrant: Entrant, day: int, worker: Worker) -> None:
    """Remember whether a write succeeded; a failed one must have left nothing."""
    entrant.tried += 1
    try:
        worker.hear()
    except ContenderError as error:
        entrant.failed.append(str(error).splitlines()[0][:120])
    else:
        entrant.wrote([day])


def _all_read(fleet: list[Worker]) -> float:
    begun = time.perf_counter()
    for day, worker in enumerate(fleet):
        worker.tell(do="read", day=day, rows=ROWS)
    for worker in fleet:
        worker.hear()
    return time.perf_counter() - begun


def _fleet_cold(entrants: Mapping[str, Entrant]) -> dict[str, dict[str, Samples]]:
    """Time eight processes from the first start to the last exit."""
    writers: dict[str, Contender] = {name: lambda e=e: _cold_writes(e) for name, e in entrants.items()}
    readers: dict[str, Contender] = {name: lambda e=e: _cold_reads(e) for name, e in entrants.items() if name != UNLOCKED}
    return {
        f"{FLEET} processes write a partition each, cold": alternate(writers, rounds=FLEET_COLD_ROUNDS, warm=0),
        f"{FLEET} processes read a partition each, cold": alternate(readers, rounds=FLEET_COLD_ROUNDS, warm=0),
    }


def _cold_writes(entrant: Entrant) -> float:
    days = entrant.fresh(FLEET)
    seconds, errors = _together([entrant.command(json.dumps({"do": "write", "days": [day], "rows": ROWS})) for day in days])
    entrant.tried += FLEET
    for day, error in zip(days, errors, strict=True):
        if error is None:
            entrant.wrote([day])
        else:
            entrant.failed.append(error)
    return seconds


def _cold_reads(entrant: Entrant) -> float:
    seconds, errors = _together([entrant.command(json.dumps({"do": "read", "day": day, "rows": ROWS})) for day in range(FLEET)])
    if failed := [error for error in errors if error is not None]:
        raise ContenderError(f"{len(failed)} of {FLEET} reads failed: {failed[0]}")
    return seconds


def _together(commands: list[list[str]]) -> tuple[float, list[str | None]]:
    """Start processes at once; return the time until all have ended, and the last words of those that failed."""
    begun = time.perf_counter()
    started = [
        subprocess.Popen(c, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands
    ]
    words = [process.communicate()[1] for process in started]
    seconds = time.perf_counter() - begun
    return seconds, [said.strip().splitlines()[-1][:120] if p.returncode else None for p, said in zip(started, words, strict=True)]


@contextmanager
def _workers(entrants: Mapping[str, Entrant], count: int) -> Iterator[dict[str, list[Worker]]]:
    """Keep processes of every store alive together; those that are not asked wait."""
    fleets = {name: [entrant.worker() for _ in range(count)] for name, entrant in entrants.items()}
    try:
        yield fleets
    finally:
        for worker in (w for fleet in fleets.values() for w in fleet):
            worker.close()
