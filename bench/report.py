"""Results: tables of medians and ratios, written as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from bench.harness import ROOT, Samples

RESULTS = ROOT / "bench" / "results"
RATIOS = (
    "Only the ratios count: a figure with × is how many times as long as ours that took, the median of the rounds' ratios, "
    "measured in turns in the same run. Seconds differ from machine to machine and from hour to hour."
)


class Table(Protocol):
    """What a report is made of."""

    def markdown(self) -> str:
        """Return it for people."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        ...

    def failures(self) -> list[str]:
        """Return what went wrong."""
        ...


@dataclass
class Comparison:
    """Contenders side by side.

    Parameters
    ----------
    title
        What was timed.
    ours
        The contender that the others are divided by.
    rows
        By what was done, the samples of each contender.
    notes
        What a reader must know to judge the figures.
    expected_to_fail
        Contenders whose failure is the finding, not an accident.
    """

    title: str
    ours: str
    rows: dict[str, dict[str, Samples]]
    notes: Sequence[str] = ()
    expected_to_fail: Sequence[str] = ()

    def markdown(self) -> str:
        """Return a table with one column for each contender."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines = [(label, *(_cell(row.get(name), row[self.ours]) for name in names)) for label, row in self.rows.items()]
        return "\n".join([f"## {self.title}", "", _grid(("", *names), lines), "", *(f"- {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """Return every sample."""
        rows = {label: {name: _sample(s, row[self.ours]) for name, s in row.items()} for label, row in self.rows.items()}
        return {"title": self.title, "ours": self.ours, "rows": rows, "notes": list(self.notes)}

    def failures(self) -> list[str]:
        """Return the contenders that failed unexpectedly."""
        return [
            f"{self.title}: {label}: {name}: {samples.failure}"
            for label, row in self.rows.items()
            for name, samples in row.items()
            if samples.failure and name not in self.expected_to_fail
        ]


@dataclass
class Facts:
    """What was counted rather than compared.

    Parameters
    ----------
    title
        What was counted.
    columns
        Heads; the first is of the labels.
    rows
        Values, in the order of the columns.
    notes
        What a reader must know.
    wrong
        What should not be so.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    wrong: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return a table."""
        lines = [tuple(_text(value) for value in row) for row in self.rows]
        return "\n".join([f"## {self.title}", "", _grid(self.columns, lines), "", *(f"- {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """Return the values."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows], "notes": list(self.notes)}

    def failures(self) -> list[str]:
        """Return what should not be so."""
        return [f"{self.title}: {what}" for what in self.wrong]


@dataclass
class Report:
    """The outcome of one benchmark."""

    name: str
    title: str
    tables: Sequence[Table]
    versions: Mapping[str, str]

    def failures(self) -> list[str]:
        """Return what went wrong, over all tables."""
        return [failure for table in self.tables for failure in table.failures()]

    def markdown(self) -> str:
        """Return the whole report for people."""
        machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        failed = [f"- failed: {failure}" for failure in self.failures()]
        parts = [f"# {self.title}", RATIOS, f"{machine}; {libraries}.", "\n".join(failed), *(table.markdown() for table in self.tables)]
        return "\n\n".join(part.strip() for part in parts if part) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return the whole report for programs."""
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
        head = {"name": self.name, "title": self.title, "machine": machine, "versions": dict(self.versions), "failures": self.failures()}
        return head | {"tables": [table.as_json() for table in self.tables]}

    def write(self) -> None:
        """Write both forms to ``bench/results`` and print the tables."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        (RESULTS / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        print(self.markdown(), flush=True)


def ratio(samples: Samples, ours: Samples) -> float | None:
    """Return how many times as long as ours something took: the median over rounds, because neighbours in time share the machine's mood."""
    if samples.median is None or ours.median is None:
        return None
    if len(samples.seconds) != len(ours.seconds):
        return samples.median / ours.median
    return median(theirs / mine for theirs, mine in zip(samples.seconds, ours.seconds, strict=True))


def _cell(samples: Samples | None, ours: Samples) -> str:
    if samples is None:
        return "–"
    if samples.median is None:
        return f"failed: {samples.failure}"
    times = ratio(samples, ours)
    return seconds(samples.median) if samples is ours or times is None else f"{seconds(samples.median)} · {_times(times)}"


def _times(value: float) -> str:
    """Return a ratio with two digits that count."""
    return f"{value:.0f}×" if value >= 9.95 else f"{value:.1f}×" if value >= 0.995 else f"{value:.2g}×"


def _sample(samples: Samples, ours: Samples) -> dict[str, Any]:
    rounded = [round(value, 9) for value in samples.seconds]
    return {"median": samples.median, "times_ours": ratio(samples, ours), "failure": samples.failure, "seconds": rounded}


def seconds(value: float) -> str:
    """Return a duration in the unit that reads best."""
    if value < 0.001:
        return f"{value * 1e6:.3g} µs"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.2f} ms"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [columns, ["---", *["---:"] * (len(columns) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)
