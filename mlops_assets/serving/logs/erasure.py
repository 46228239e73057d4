"""An entity taken out of the logs of predictions and of pushes, in place: a line keeps its length, and whoever appends meanwhile loses nothing."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.serving.logs.checked_lines import CHECKSUM_LENGTH, ChangedLineError, has_checksum, sign_line, strip_checksum
from mlops_assets.serving.logs.day_log import files_of
from mlops_assets.serving.logs.push_log import PushRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class _Named(msgspec.Struct, gc=False):
    """As much of a prediction as names an entity."""

    key: dict[str, Any]
    x: dict[str, Any]


def erased_predictions(folder: Path, entity: Mapping[str, str], *, dry: bool = False) -> int:
    """Blank the lines of predictions about an entity; return how many.

    Parameters
    ----------
    folder
        Of the log.
    entity
        Column to value, as text: in the key of a prediction or among its columns.
    dry
        Only count.
    """
    decode = msgspec.json.Decoder(_Named).decode

    def change(line: bytes) -> tuple[bytes, int]:
        record = decode(line)
        named = {**record.x, **record.key}
        mine = all(column in named and str(named[column]) == value for column, value in entity.items())
        return (b"", 1) if mine else (line, 0)

    return _changed(folder, change, dry=dry)


def erased_pushes(folder: Path, entity: Mapping[str, str], *, dry: bool = False) -> int:
    """Take rows of an entity out of the calls that pushed them; return how many. A call stays, with the rows of others or with none.

    Parameters
    ----------
    folder, entity, dry
        As of :func:`erased_predictions`.
    """
    decode, encode = msgspec.json.Decoder(PushRecord).decode, msgspec.json.Encoder().encode

    def change(line: bytes) -> tuple[bytes, int]:
        record, signature = _unsigned(line, decode)
        columns = record.columns
        if not entity.keys() <= columns.keys():
            return line, 0
        count = len(next(iter(columns.values()), []))
        kept = [i for i in range(count) if not all(str(columns[name][i]) == value for name, value in entity.items())]
        if len(kept) == count:
            return line, 0
        record.columns = {name: [values[i] for i in kept] for name, values in columns.items()}
        return signature(encode(record)), count - len(kept)

    return _changed(folder, change, dry=dry)


def _unsigned(line: bytes, decode: Callable[[bytes], PushRecord]) -> tuple[PushRecord, Callable[[bytes], bytes]]:
    """Return a call, and how its line is signed again; a line without a checksum gets none, and a wrong checksum stays wrong."""
    try:
        body = strip_checksum(line)
    except ChangedLineError:
        kept = line.rstrip()
        wrong = kept[-CHECKSUM_LENGTH:]
        return decode(kept[:-CHECKSUM_LENGTH] + b"}"), lambda new: new[:-1] + wrong
    return decode(body), sign_line if has_checksum(line) else bytes


def _changed(folder: Path, change: Callable[[bytes], tuple[bytes, int]], *, dry: bool) -> int:
    total = 0
    for path in files_of(folder, date.min, date.max):
        with path.open("rb" if dry else "r+b") as file:
            at = 0
            for line in file.read().split(b"\n")[:-1]:  # what follows the last newline is torn, or nothing
                try:
                    shorter, count = change(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    shorter, count = line, 0  # erased before, or never readable
                if count and not dry:
                    file.seek(at)
                    file.write(shorter.ljust(len(line)))
                    file.flush()
                total += count
                at += len(line) + 1
    return total
