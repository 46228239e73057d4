"""How long a drift report takes: ours against Evidently and NannyML; each must find the columns that were planted.

``BENCH_SIZES=20000x20`` measures other sizes (rows of the reference and of the current window x columns), under another name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness import BIN, ContenderError, Samples, Worker, alternate, peer, scratch
from bench.harness import versions as installed
from bench.history import sizes, started
from bench.projects.drift_data import NULLS, PLANTED
from bench.report import Comparison, Facts, Report, ratio, seconds

FRAMES = ("pandas==2.3.3", "numpy==2.4.6", "scipy==1.17.1", "pyarrow==26.0.1")
EVIDENTLY_PINS = ("evidently==0.7.23", *FRAMES)
NANNYML_PINS = ("nannyml==0.13.1", "statsmodels==0.14.6", *FRAMES)  # it imports statsmodels without requiring it
OURS, EVIDENTLY, NANNYML = "ours", "Evidently", "NannyML"
MODULES = {OURS: "drift_ours", EVIDENTLY: "drift_evidently", NANNYML: "drift_nannyml"}
SIZES, LARGE = ((100_000, 20), (1_000_000, 20)), (10_000_000, 50)
ROUNDS = 5
MIN_TIMES = {EVIDENTLY: 30, NANNYML: 5}  # how many times as long as ours, at the largest of the sizes
MAX_DIFFERENCE = {"ks": 0.002, "wasserstein": 0.002, "psi": 0.001}
TRUTH = {"ks": "scipy's ks_2samp", "wasserstein": "scipy's wasserstein_distance / std", "psi": "the rows counted in the stored bins"}
MAX_SECONDS, MAX_PEAK = 30, 10**9
EXPECTED = {OURS: set(PLANTED), EVIDENTLY: set(PLANTED) - {NULLS}, NANNYML: set(PLANTED) - {NULLS}}
Answers = dict[str, dict[str, Any]]  # contender → its first report, or an error
FAIR = [
    "Rows × columns, of the reference and of the current window alike. A quarter of the columns are categories. All contenders read the same Parquet files; their rows are in memory before anything is timed.",
    "Ours: `measure_drift` with the stored profile, which it reads from disk; the reference has 60 days of event times. Each column gets the Kolmogorov–Smirnov statistic, the Wasserstein and Jensen–Shannon distances, the PSI, statistics of windows, associations and a histogram.",
    "Evidently: `DataDriftPreset` with its defaults. It reads all rows of the reference at each report. One statistic for each column: the Wasserstein or the Jensen–Shannon distance.",
    "NannyML: `calculate` of the univariate drift calculator with its defaults: the Jensen–Shannon distance in each of ten chunks.",
]
PREPARED = ["Ours: `build_profile`, written to disk as JSON. NannyML: `fit`. Evidently prepares nothing."]
FOUND = [
    "Planted: a shift, a wider spread, a longer tail, more zeros, more nulls, a new category, two categories swapped. No other column drifts.",
    f"More nulls ({NULLS}) are no drift to Evidently and to NannyML by design: both leave nulls out of their distances.",
    "NannyML judges chunks; a column counts as drifted when most of its chunks alert.",
]
STREAMED = [
    "Lazy frames over Parquet, one column in memory at a time. The profile is built column by column without event times, so its thresholds allow for chance alone, and it has no associations.",
    f"Target of the report: {MAX_SECONDS} s with less than {MAX_PEAK / 1e9:g} GB.",
]


def run(*, full: bool) -> Report:
    """Run the whole benchmark; ``full`` adds the size that is streamed."""
    python, (asked, standard) = _find_pythons(), sizes(SIZES)
    home, reports, preparations = scratch("drift"), dict[str, dict[str, Samples]](), dict[str, dict[str, Samples]]()
    found, agreement, wrong_found, wrong_agreement = list[tuple[Any, ...]](), list[tuple[Any, ...]](), list[str](), list[str]()
    for rows, columns in asked:
        folder, label = home / f"{rows}x{columns}", _name_size(rows, columns)
        _make(folder, rows, columns)
        first, preparations[label], reports[label] = _measure(python, folder, columns)
        with started(BIN / "python", "drift_answers", folder, columns) as answers:
            differences = answers.ask(do="compare")
        found += [(f"{label}: {name}", *_describe_found(answer)) for name, answer in first.items()]
        wrong_found += [f"{label}: {name} {what}" for name, answer in first.items() if (what := _find_wrong(name, answer))]
        agreement += [(f"{label}: {name}", TRUTH[name], d["columns"], f"{d['largest']:.2g}") for name, d in differences.items()]
        wrong_agreement += _find_disagreement(label, differences)
        shutil.rmtree(folder)
    compared = ("statistic", "compared with", "columns", "largest difference")
    tables = [
        Comparison("Report of the current window", OURS, reports, FAIR),
        Comparison("Reference prepared once", OURS, preparations, PREPARED),
        _check_targets(list(reports.values())[-1], list(reports)[-1], standard=standard),
        Facts("What was found", ("contender", "drifted columns", "not planted", "not found", "peak memory"), found, FOUND, wrong_found),
        Facts("Agreement", compared, agreement, [f"Allowed: {MAX_DIFFERENCE}."], wrong_agreement),
    ]
    if full:
        tables.append(_stream(home, *(LARGE if standard else asked[-1])))
    return Report("drift" if standard else "drift_other_sizes", "Drift reports", tables, _list_versions(python))


def _find_pythons() -> dict[str, Path]:
    return {OURS: BIN / "python", EVIDENTLY: peer("drift-evidently", *EVIDENTLY_PINS), NANNYML: peer("drift-nannyml", *NANNYML_PINS)}


def _list_versions(python: Mapping[str, Path]) -> dict[str, str]:
    ours = installed(python[OURS], "mlops_assets", "polars", "numpy")
    peers = {name.lower(): installed(python[name], name.lower())[name.lower()] for name in (EVIDENTLY, NANNYML)}
    return {f"{name} (ours)": version for name, version in ours.items()} | peers | {"pandas (peers)": FRAMES[0].partition("==")[2]}


def _make(folder: Path, rows: int, columns: int) -> None:
    with started(BIN / "python", "drift_answers", folder, columns) as maker:
        for which in ("reference", "current"):
            maker.ask(do="make", which=which, rows=rows)


def _measure(python: Mapping[str, Path], folder: Path, columns: int) -> tuple[Answers, dict[str, Samples], dict[str, Samples]]:
    """Return the first reports, and samples of preparing and of reporting, in turns."""
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(started(python[name], MODULES[name], folder, columns)) for name in MODULES}
        prepared = _alternate({name: workers[name] for name in (OURS, NANNYML)}, "prepare")
        first = {name: _ask(worker) for name, worker in workers.items()}
        reported = _alternate(workers, "report")
    return first, prepared, reported


def _alternate(workers: Mapping[str, Worker], do: str) -> dict[str, Samples]:
    return alternate({name: lambda w=worker: float(w.ask(do=do)["seconds"]) for name, worker in workers.items()}, rounds=ROUNDS, warm=0)


def _ask(worker: Worker) -> dict[str, Any]:
    try:
        return worker.ask(do="report")
    except ContenderError as error:
        return {"error": str(error)}


def _describe_found(answer: Mapping[str, Any]) -> tuple[Any, ...]:
    if "error" in answer:
        return (answer["error"], "–", "–", "–")
    drifted = set(answer["drifted"])
    others, missed = (", ".join(sorted(names)) or "–" for names in (drifted - set(PLANTED), set(PLANTED) - drifted))
    return (len(drifted), others, missed, f"{answer['peak'] / 1e9:.2f} GB")


def _find_wrong(name: str, answer: Mapping[str, Any]) -> str:
    """Return how a report differs from what its contender finds by design; empty when it does not."""
    if "error" in answer:
        return f"failed: {answer['error']}"
    different = EXPECTED[name] ^ set(answer["drifted"])
    return f"missed or found without being planted: {', '.join(sorted(different))}" if different else ""


def _find_disagreement(label: str, differences: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"{label}: {name} differs by {difference['largest']:.2g} from {TRUTH[name]}; {MAX_DIFFERENCE[name]} is allowed"
        for name, difference in differences.items()
        if not difference["largest"] <= MAX_DIFFERENCE[name]
    ]


def _check_targets(samples: Mapping[str, Samples], label: str, *, standard: bool) -> Facts:
    """Compare ratios with the targets; at other sizes they are shown, and fail nothing."""
    times = {name: ratio(samples[name], samples[OURS]) for name in MIN_TIMES}
    rows = [(f"{label}: {name}", f"≥ {least}×", "–" if times[name] is None else f"{times[name]:.1f}×") for name, least in MIN_TIMES.items()]
    wrong = [
        f"{name} takes {times[name] or 0:.1f} times as long as ours; the target is {least}"
        for name, least in MIN_TIMES.items()
        if standard and (times[name] or 0) < least
    ]
    return Facts("Targets", ("report", "target", "measured"), rows, (), wrong)


def _stream(home: Path, rows: int, columns: int) -> Facts:
    """Build a profile and report from files that exceed the memory; each in a process of its own, for its peak memory."""
    folder, label, lines, answers = home / "streamed", _name_size(rows, columns), list[tuple[Any, ...]](), Answers()
    _make(folder, rows, columns)
    for do in ("prepare", "report"):
        with started(BIN / "python", MODULES[OURS], folder, columns) as worker:
            answers[do] = worker.ask(do=do, stream=True)
        lines.append((f"{label}: {do}", seconds(answers[do]["seconds"]), f"{answers[do]['peak'] / 1e9:.2f} GB"))
    shutil.rmtree(folder)
    wrong = [f"{label}: {what}"] if (what := _find_wrong(OURS, answers["report"])) else []
    if (spent := answers["report"]["seconds"]) > MAX_SECONDS or answers["report"]["peak"] >= MAX_PEAK:
        wrong.append(f"{label}: the report takes {seconds(spent)} and {answers['report']['peak'] / 1e9:.2f} GB")
    return Facts("Ours, streamed", ("", "time", "peak memory"), lines, STREAMED, wrong)


def _name_size(rows: int, columns: int) -> str:
    count = f"{rows // 10**6}M" if rows % 10**6 == 0 else f"{rows // 1000}k" if rows % 1000 == 0 else str(rows)
    return f"{count} × {columns}"
