"""Find changed lines and empty files in prediction logs, push logs and trace logs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.errors import DataError
from mlops_assets.serving.logs.checked_lines import ChangedLineError, strip_checksum
from mlops_assets.serving.logs.day_log import list_files
from mlops_assets.serving.logs.inference_log import PredictionRecord
from mlops_assets.serving.logs.push_log import PushRecord
from mlops_assets.serving.logs.trace_log import TraceLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class LogDamage:
    """The damage of one file of a log.

    Parameters
    ----------
    path
        The file.
    lines
        Numbers of the changed lines, from 1; none when the file is empty.
    """

    path: Path
    lines: tuple[int, ...]


def find_changed_predictions(folder: Path) -> Iterator[LogDamage]:
    """Yield the files of a prediction log that are empty or have changed lines; a blank line was erased and counts as intact."""
    return _find_damage(folder, msgspec.json.Decoder(PredictionRecord), allow_blank=True)


def find_changed_pushes(folder: Path) -> Iterator[LogDamage]:
    """Yield the files of a push log that are empty or have changed lines."""
    return _find_damage(folder, msgspec.json.Decoder(PushRecord), allow_blank=False)


def find_changed_traces(folder: Path) -> Iterator[LogDamage]:
    """Yield the files of a trace log that are empty or have changed lines; a blank line was erased and counts as intact."""
    return _find_damage(folder, msgspec.json.Decoder(TraceLine), allow_blank=True)


def _find_damage(folder: Path, decoder: msgspec.json.Decoder[Any], *, allow_blank: bool) -> Iterator[LogDamage]:
    """Yield the damaged files of a log; blank lines count as intact if ``allow_blank``, and a torn last line is ignored."""
    for path in list_files(folder, date.min, date.max):
        with path.open("rb") as file:
            complete = ((number, line) for number, line in enumerate(file, 1) if line.endswith(b"\n"))  # a kill tore the last line
            lines = tuple(number for number, line in complete if not (allow_blank and line[:-1].isspace()) and _is_changed(line, decoder))
        if lines or not path.stat().st_size:
            yield LogDamage(path, lines)


def _is_changed(line: bytes, decoder: msgspec.json.Decoder[Any]) -> bool:
    try:
        decoder.decode(strip_checksum(line))
    except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError, DataError):
        return True
    return False
