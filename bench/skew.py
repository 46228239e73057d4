"""How long it takes to find what was served wrong: ours against Feast and pandas; what was planted must be found, and nothing else.

``BENCH_SIZES=2000x20000`` measures other sizes (rows served x rows of each view), under another name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness import ContenderError, Samples, Worker, alternate, scratch
from bench.history import FEAST_DUCKDB, KINDS, OURS, SIZES, History, made, pythons, sizes, started, versions
from bench.report import Comparison, Facts, Report, seconds

PEER = "Feast, duckdb store, and pandas"
CONTENDERS = {OURS: OURS, PEER: FEAST_DUCKDB}
ROUNDS = 5
FEW = SIZES[0][0]
NOW, KNOWN = "looked up whatever the lake holds now", "looked up what was known at the time"
FAIR = [
    "Rows served × rows of each of 3 views: 15 features a row; views as in the benchmark of point-in-time training sets.",
    "One value in 100,000 was served wrong, a float by its last bit: a check counts only when it named all of them and no other.",
    "Ours: the layouts are opened and verified, the features looked up anew, and compared by the function behind the check `no_skew` of a service.",
    "No open-source feature store has a skew check. The peer is what one would write: `get_historical_features`, aligned by row, compared column by column.",
    "The log is in memory: a polars frame (ours), a pandas frame (peer). Feast knows no time at which a row became known, so this log has none.",
    "At the larger size the peer checks once, and its ratio is to ours' median; the second kind of log it checks there only with --full.",
]


def run(*, full: bool) -> Report:
    """Run the whole benchmark."""
    python, (asked, standard) = pythons(), sizes(SIZES[:2])
    home, rows, lines, wrong = scratch("skew"), dict[str, dict[str, Samples]](), list[tuple[Any, ...]](), list[str]()
    for served, of_a_view in asked:
        history = made(home, served, of_a_view)
        for log, known in ((NOW, False), (KNOWN, True)):
            answers, samples = _checked(python, history, known, full=full)
            if not known:
                rows[history.label] = samples
            lines += [(f"{history.label}, {log}: {name}", *_said(answer)) for name, answer in answers.items()]
            if answers[OURS]["false"] or answers[OURS]["missed"]:
                wrong.append(f"{history.label}, {log}: ours missed {answers[OURS]['missed']} and named {answers[OURS]['false']} others")
        shutil.rmtree(history.folder)
    columns = ("the service", "values served", "served wrong", "found", "missed", "named though right", "first check", "peak memory")
    notes = [
        "The service that looked up what was known at the time is the usual one: late rows were not there yet.",
        "To the peer each of them looks like skew, because it finds the late row: named though right.",
    ]
    tables = [Comparison("Served rows checked", OURS, rows, FAIR, (PEER,)), Facts("What was found", columns, lines, notes, wrong)]
    return Report("skew" if standard else "skew_other_sizes", "Training-serving skew", tables, versions(python))


def _checked(
    python: Mapping[str, Path], history: History, known: bool, *, full: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, Samples]]:
    with started(python[OURS], "history_skew", "ours", history.folder, int(known)) as ours:
        served = ours.ask(do="serve")
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(started(python[of], "history_skew", KINDS[of], history.folder, int(known)))
            for name, of in CONTENDERS.items()
            if name == OURS or not known or full or history.spine <= FEW
        }
        answers = {name: served | _asked(worker) for name, worker in workers.items()}
        samples = {name: _samples(answer) for name, answer in answers.items()}
        again = [n for n, s in samples.items() if s.failure is None and not known and (n == OURS or history.spine <= FEW)]
        samples |= alternate({name: lambda w=workers[name]: float(w.ask(do="check")["seconds"]) for name in again}, rounds=ROUNDS, warm=0)
    return answers, samples


def _asked(worker: Worker) -> dict[str, Any]:
    try:
        return worker.ask(do="check")
    except ContenderError as error:
        return {"error": str(error), "false": 0, "missed": 0}


def _samples(answer: Mapping[str, Any]) -> Samples:
    if "error" in answer:
        return Samples(failure=answer["error"])
    wrong = f"wrong ({answer['missed']:,} missed, {answer['false']:,} named though right) after {seconds(answer['seconds'])}"
    return Samples([answer["seconds"]], wrong if answer["missed"] or answer["false"] else None)


def _said(answer: Mapping[str, Any]) -> tuple[Any, ...]:
    if "error" in answer:
        return (answer["values"], answer["planted"], "–", "–", "–", answer["error"], "–")
    counted = [answer[kind] for kind in ("values", "planted", "found", "missed", "false")]
    return (*counted, seconds(answer["seconds"]), f"{answer['peak'] / 1e9:.2f} GB")
