"""How long a training set takes: ours against Feast, and against DuckDB and polars on the raw files; every answer compared row by row.

``BENCH_SIZES=2000x20000`` measures other sizes (rows of the spine x rows of each view), under another name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import BIN, ContenderError, Samples, Worker, alternate, scratch
from bench.history import (
    DUCKDB,
    FEAST_DUCKDB,
    FEAST_FILE,
    KINDS,
    OURS,
    POLARS,
    SIZES,
    History,
    grown,
    made,
    pythons,
    sizes,
    started,
    versions,
)
from bench.report import Comparison, Facts, Report, seconds

ROUNDS, FEWER_ROUNDS = 5, 3
SAMPLE = 2_000
LATEST, KNOWN = "Latest event at the time", "What was known at the time"
SEMANTICS = {LATEST: False, KNOWN: True}
FEW = SIZES[0][0]  # rows of a spine that Feast is asked for without --full
FEASTS = (FEAST_DUCKDB, FEAST_FILE)
FAIR = [
    "Spine × rows of each of 3 views; 5 features a view (4 floats, 1 whole number), 10,000 entities by a whole number, one year, ttl 7 days; ties, late rows, nulls.",
    "The spine is in memory: a polars frame (ours, polars), the same registered (DuckDB), a pandas frame (Feast); the result is a polars frame, of Feast a pandas frame.",
    "Ours: `ml.training_frame`, which asks the lake for its newest state and looks up in layouts that were made before (below). Layouts that a process has verified are kept open for a minute; the table of answers has the first call of each process.",
    "DuckDB, polars and Feast read the raw Parquet files, in the order of events, in each call; DuckDB and polars make the layout by the way, the exact definition in one query.",
    "All use as many threads as the machine has cores. A process answers once before its time counts, files are in the page cache.",
    f"Every answer was compared with ours, row by row and value by value, and ours on {SAMPLE:,} rows with a search that follows the definition literally.",
    "A time beside 'wrong' is no speed: that contender lost rows or gave other values, as the table of answers says.",
    "Feast's default store answers once at the smallest size; its duckdb store at the larger sizes only with --full, and then once: its ratio is then to ours' median.",
]
TARGETS = {(100_000, 1_000_000): 0.3, (1_000_000, 1_000_000): 0.6}
TIMES = {FEAST_DUCKDB: 10, FEAST_FILE: 150}


@dataclass
class Answer:
    """What one contender said at one size, and how.

    Parameters
    ----------
    samples
        Its times.
    first
        Its first answer: seconds, rows, memory.
    verdict
        What was wrong.
    """

    samples: Samples
    first: dict[str, Any]
    verdict: dict[str, Any]

    @property
    def wrong(self) -> bool:
        """Return whether anything was."""
        return any(self.verdict.get(kind) for kind in ("lost", "twice", "wrong_rows"))


Answers = dict[str, Answer]


def run(*, full: bool) -> Report:
    """Run the whole benchmark."""
    python, (asked, standard) = pythons(), sizes()
    home = scratch("point_in_time")
    histories = list[History]()
    answers: dict[str, dict[str, Answers]] = {title: {} for title in SEMANTICS}
    checks = list[tuple[str, dict[str, Any]]]()
    for spine, rows in asked:
        history = made(home, spine, rows)
        for title, known in SEMANTICS.items():
            answers[title][history.label] = _answers(python, history, known, full=full)
            checks.append((f"{title}, {history.label}", _checked(history, known)))
        grown(history)
        shutil.rmtree(history.folder)  # gigabytes at the largest size
        histories.append(history)
    tables = [_comparison(title, rows, first=title == LATEST) for title, rows in answers.items()]
    facts = [_verdicts(answers, checks), _layouts(histories), _targets(histories, answers[LATEST])]
    name = "point_in_time" if standard else "point_in_time_other_sizes"
    return Report(name, "Point-in-time training sets", [*tables, *facts], versions(python))


def _answers(python: dict[str, Path], history: History, known: bool, *, full: bool) -> Answers:
    with contextlib.ExitStack() as stack:
        judge = stack.enter_context(started(BIN / "python", "history_answers"))
        workers = {
            name: stack.enter_context(started(python[name], "history_join", KINDS[name], history.folder, int(known)))
            for name in _contenders(history, known, full=full)
        }
        answers = {name: _first(worker, judge, history, name, known) for name, worker in workers.items()}
        rounds = ROUNDS if full or history.spine <= FEW else FEWER_ROUNDS
        again = [name for name, answer in answers.items() if answer.samples.failure is None and _quick(history, name)]
        timed = alternate({name: lambda w=workers[name]: float(w.ask(do="join")["seconds"]) for name in again}, rounds=rounds, warm=0)
    for name, samples in timed.items():
        answers[name].samples = samples
    return answers


def _contenders(history: History, known: bool, *, full: bool) -> list[str]:
    few = history.spine <= FEW
    feasts = [name for name in FEASTS if not known and (few or (full and name == FEAST_DUCKDB))]
    return [OURS, DUCKDB, POLARS, *feasts]


def _quick(history: History, name: str) -> bool:
    return name not in FEASTS or (name == FEAST_DUCKDB and history.spine <= FEW)


def _file(history: History, name: str, known: bool) -> Path:
    return history.folder / f"{KINDS[name]}-{'known' if known else 'latest'}.parquet"


def _first(worker: Worker, judge: Worker, history: History, name: str, known: bool) -> Answer:
    """Ask for the first time, and compare with what ours said."""
    file = _file(history, name, known)
    try:
        first = worker.ask(do="join", answer=str(file))
    except ContenderError as error:
        return Answer(Samples(failure=str(error)), {}, {})
    verdict = judge.ask(do="compare", wanted=str(_file(history, OURS, known)), got=str(file))
    answer = Answer(Samples([first["seconds"]]), first, verdict)
    if answer.wrong:
        told = f"{verdict['lost']:,} rows lost, {verdict['twice']:,} twice, {verdict['wrong_rows']:,} with wrong values"
        answer.samples.failure = f"wrong ({told}) after {seconds(first['seconds'])}"
    return answer


def _checked(history: History, known: bool) -> dict[str, Any]:
    """Compare ours with the definition."""
    wanted = history.folder / f"definition-{int(known)}.parquet"
    with started(BIN / "python", "history_answers") as judge:
        found = judge.ask(do="define", folder=str(history.folder), known=known, sample=SAMPLE, answer=str(wanted))
        return found | judge.ask(do="compare", wanted=str(wanted), got=str(_file(history, OURS, known)))


def _comparison(title: str, answers: dict[str, Answers], *, first: bool) -> Comparison:
    rows = {label: {name: answer.samples for name, answer in each.items()} for label, each in answers.items()}
    notes = (
        FAIR
        if first
        else ["Only rows count that had been created by then: no late row leaks. Feast knows no such time, so it does not take part."]
    )
    return Comparison(title, OURS, rows, notes, FEASTS)


def _verdicts(answers: dict[str, dict[str, Answers]], checks: Sequence[tuple[str, dict[str, Any]]]) -> Facts:
    lines, wrong = list[Sequence[Any]](), list[str]()
    for title, by_size in answers.items():
        for label, each in by_size.items():
            for name, answer in each.items():
                what = f"{title}, {label}: {name}"
                told = [answer.verdict.get(kind, "–") for kind in ("lost", "twice", "wrong_rows", "wrong")]
                first = "–" if not answer.first else seconds(answer.first["seconds"])
                lines.append((what, *told, first, _gigabytes(answer.first.get("peak")), _gigabytes(answer.first.get("before"))))
                if answer.wrong and name not in FEASTS:
                    wrong.append(f"{what}: {answer.verdict['first']}")
    wrong += [f"{what}: ours differs from the definition: {v['first']}" for what, v in checks if v["lost"] or v["twice"] or v["wrong_rows"]]
    notes = [
        f"{what}: {v['rows']:,} rows, {v['found']:,} values found by the definition; ours had {v['wrong']} wrong." for what, v in checks
    ]
    notes.append(
        "Peak is the most memory that a fresh process ever had, after its first answer; of ours, mapped layout files count as well."
    )
    columns = ("", "rows lost", "rows twice", "rows with wrong values", "wrong values", "first call", "peak memory", "before the call")
    return Facts("Answers and memory", columns, lines, notes, wrong)


def _gigabytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e9:.2f} GB"


def _layouts(histories: Sequence[History]) -> Facts:
    lines = []
    for history in histories:
        facts, day = history.facts, history.facts["day"]
        took = [facts["write"], facts[True], facts[False], day, facts["day", True], facts["day", False]]
        lines.append((history.label, *(seconds(fact["seconds"]) for fact in took), facts[True]["files"], _gigabytes(facts[True]["bytes"])))
    columns = (
        "",
        "365 days into the lake",
        "layouts made, as known",
        "layouts made, latest event",
        "one more day into the lake",
        "layouts updated, as known",
        "layouts updated, latest event",
        "files",
        "size",
    )
    notes = [
        "Three views together, each once; one more day has as many rows as a mean day. Files and size are those of one kind of layout."
    ]
    return Facts("What ours prepares", columns, lines, notes)


def _targets(histories: Sequence[History], answers: dict[str, Answers]) -> Facts:
    lines = list[Sequence[Any]]()
    for history in histories:
        each = answers[history.label]
        ours = each[OURS].samples.median
        if ours is None or (history.spine, history.rows) not in TARGETS:
            continue
        target = TARGETS[history.spine, history.rows]
        lines.append((history.label, f"≤ {target} s", seconds(ours), _yes(ours <= target)))
        for name, times in TIMES.items():
            if history.spine <= FEW and (theirs := each[name].first.get("seconds")):
                remark = " (its answer is wrong)" if each[name].wrong else ""
                took = each[name].samples.median or theirs
                lines.append((f"{history.label}, {name}", f"≥ {times}×", f"{took / ours:.0f}×{remark}", _yes(took / ours >= times)))
    notes = ["Latest event at the time, medians. Seconds depend on the machine and on who else uses it."]
    return Facts("Targets", ("", "target", "measured", "met"), lines, notes)


def _yes(met: bool) -> str:
    return "yes" if met else "no"
