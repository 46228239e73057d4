"""A year of twenty tables: what a lake of many small commits costs to write, to attach and to keep."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.harness import ContenderError, Samples, Worker, output, scratch
from bench.report import Comparison, Facts, Table, seconds

if TYPE_CHECKING:
    from bench.lake import Entrant

DAYS, TABLES, ROWS = 365, 20, 100
BUDGET = 90.0  # seconds for writing: a store that gets slower must not take the whole benchmark with it
SPAN = 10  # days at each end whose commits are compared
ATTACHES, READS = 5, 5
NO_UPKEEP = ("plain Parquet",)
NOTES = (
    f"The first and the last commits are those of at most {SPAN} days, one figure a day.",
    "To attach is what a new process does before its first question, imports not counted.",
    "The lake loads its extensions and opens one catalog, Delta reads the log of each table, plain Parquet lists its folders.",
    "Upkeep merges small files and deletes what is superseded; nobody else was at work, so nothing was too young to delete.",
    "What the first and the last table gave back was compared with what had been written, before and after.",
)


def growth(entrants: Mapping[str, Entrant], *, budget: float | None) -> list[Table]:
    """Write day by day, in turns, as far as the budget goes; then look before and after upkeep."""
    workers = {name: entrant.worker() for name, entrant in entrants.items()}
    ours = next(iter(entrants))
    try:
        commits = _fill(workers, budget)
        rows = _ends(commits)
        before = {name: _files(entrant.folder) for name, entrant in entrants.items()}
        rows |= _looks(entrants, workers, "before upkeep")
        rows["upkeep of all tables"] = {name: _one(worker, do="tidy") for name, worker in workers.items() if name not in NO_UPKEEP}
        rows |= _looks(entrants, workers, "after upkeep")
        after = {name: _files(entrant.folder) for name, entrant in entrants.items()}
        days = len(commits[ours])
        rows["a commit, after upkeep"] = {
            name: Samples(w.ask(do="spread", day=days, rows=ROWS, tables=TABLES)["each"]) for name, w in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.close()
    limit = "" if budget is None else f" within {budget:.0f} s (`python -m bench --full lake` takes as long as it takes)"
    reached = f"{days} of {DAYS} days of {TABLES} tables, {ROWS} rows each, were written in turns{limit}: one commit a day and table."
    return [Comparison("A year of twenty tables", ours, rows, [reached, *NOTES]), _counts(before, after, days), _year(entrants[ours])]


def _fill(workers: Mapping[str, Worker], budget: float | None) -> dict[str, list[list[float]]]:
    """Return, for each store and day, the seconds of each commit."""
    commits: dict[str, list[list[float]]] = {name: [] for name in workers}
    begun = time.monotonic()
    for day in range(DAYS):
        for name, worker in workers.items():
            commits[name].append(worker.ask(do="spread", day=day, rows=ROWS, tables=TABLES)["each"])
        if budget is not None and time.monotonic() - begun > budget:
            break
    return commits


def _ends(commits: Mapping[str, list[list[float]]]) -> dict[str, dict[str, Samples]]:
    """Compare the first days, the very first aside because it makes the tables, with the last: the median commit of each day."""
    span = max(1, min(SPAN, (min(len(days) for days in commits.values()) - 1) // 2))
    return {
        "a commit, first days": {name: Samples([median(day) for day in days[1 : span + 1]]) for name, days in commits.items()},
        "a commit, last days": {name: Samples([median(day) for day in days[-span:]]) for name, days in commits.items()},
    }


def _looks(entrants: Mapping[str, Entrant], workers: Mapping[str, Worker], when: str) -> dict[str, dict[str, Samples]]:
    """Attach and read; both must give back what was written."""
    attach = {name: Samples([_cold_attach(entrant) for _ in range(ATTACHES)]) for name, entrant in entrants.items()}
    read = {name: _checked(worker) for name, worker in workers.items()}
    _agree(read, workers)
    return {f"attach, {when}": attach, f"read one table, {when}": read}


def _cold_attach(entrant: Entrant) -> float:
    return json.loads(output(entrant.command(json.dumps({"do": "attach", "tables": TABLES}))))["seconds"]


def _checked(worker: Worker) -> Samples:
    try:
        return Samples([worker.ask(do="read", day=None, rows=ROWS, table="t1")["seconds"] for _ in range(READS)])
    except ContenderError as error:
        return Samples(failure=str(error))


def _agree(read: Mapping[str, Samples], workers: Mapping[str, Worker]) -> None:
    """Compare the rows of the first and of the last table with those made anew."""
    for name, worker in workers.items():
        days = worker.ask(do="read", day=None, rows=ROWS, table="t0")["rows"] // ROWS
        wanted = worker.ask(do="expected", days={str(day): 0 for day in range(days)}, rows=ROWS)
        found = [worker.ask(do="check", table=table) for table in ("t0", f"t{TABLES - 1}")]
        if found != [wanted, wanted]:
            read[name].failure = "it gave back other rows than were written"


def _one(worker: Worker, **question: Any) -> Samples:
    try:
        return Samples([worker.ask(**question)["seconds"]])
    except ContenderError as error:
        return Samples(failure=str(error))


def _files(folder: Path) -> dict[str, int]:
    """Count what lies in a folder; DuckDB's extensions are no data."""
    files = [f for f in folder.rglob("*") if f.is_file() and "extensions" not in f.parts]
    data = [f for f in files if f.suffix == ".parquet" and "_delta_log" not in f.parts]
    records = [f for f in data if "_mlops" in f.parts]
    return {
        "data": len(data) - len(records),
        "others": len(files) - len(data) + len(records),
        "bytes": sum(f.stat().st_size for f in files),
    }


def _counts(before: Mapping[str, dict[str, int]], after: Mapping[str, dict[str, int]], days: int) -> Facts:
    rows = [(name, *(found[name][what] for what in ("data", "others", "bytes") for found in (before, after))) for name in before]
    columns = ("", "data files", "after upkeep", "other files", "after upkeep", "bytes", "after upkeep")
    notes = [f"After {days} days of {TABLES} tables. Other files are the catalog and the records of partitions, or Delta's logs."]
    return Facts("Files", columns, rows, notes)


def _year(entrant: Entrant) -> Facts:
    """Make the whole year in short time, in the two layouts that a table can have, and look at each."""
    made = {"one commit a table, as a backfill makes it": _made(entrant, "backfill"), "one file a day and table": _made(entrant, "scatter")}
    wrong = [f"{way}: other rows came back than were written" for way, facts in made.items() if not facts.pop("same")]
    rows = [(way, *facts.values()) for way, facts in made.items()]
    columns = ("", "data files", "other files", "attach", "next day's commit", "upkeep", "data files after", "attach after", "commit after")
    notes = [
        f"{DAYS} days of {TABLES} tables, {ROWS} rows each.",
        "A file a day and table is the layout that daily commits leave before upkeep, made here by the inserts of one transaction a table.",
        "So the records of partitions are in one file a table here, where daily commits leave one a commit.",
    ]
    return Facts("The lake, 365 partitions of 20 tables", columns, rows, notes, wrong)


def _made(entrant: Entrant, way: str) -> dict[str, Any]:
    folder = scratch(f"growth-{way}")
    command = [str(entrant.python), "-m", "bench.lake_stores", "ours", str(folder)]
    worker = Worker(command)
    try:
        worker.ask(do=way, days=DAYS, rows=ROWS, tables=TABLES)
        before, attach = _files(folder), _attached(command)
        commit = _next_commit(worker, DAYS)
        upkeep = worker.ask(do="tidy")["seconds"]
        after, attach_after = _files(folder), _attached(command)
        commit_after = _next_commit(worker, DAYS + 1)
        same = worker.ask(do="check", table="t0") == worker.ask(do="expected", days={str(d): 0 for d in range(DAYS + 2)}, rows=ROWS)
    finally:
        worker.close()
    facts = {"data": before["data"], "others": before["others"], "attach": attach, "commit": commit, "upkeep": seconds(upkeep)}
    return facts | {"data after": after["data"], "attach after": attach_after, "commit after": commit_after, "same": same}


def _attached(command: list[str]) -> str:
    question = json.dumps({"do": "attach", "tables": TABLES})
    return seconds(median(json.loads(output([*command, question]))["seconds"] for _ in range(ATTACHES)))


def _next_commit(worker: Worker, day: int) -> str:
    return seconds(median(worker.ask(do="spread", day=day, rows=ROWS, tables=TABLES)["each"]))
