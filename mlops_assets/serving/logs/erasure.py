"""Erase an entity from prediction logs and push logs, in place: lines keep their length, so concurrent appends lose nothing."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.serving.logs.checked_lines import CHECKSUM_LENGTH, ChangedLineError, has_checksum, sign_line, strip_checksum
from mlops_assets.serving.logs.day_log import list_files
from mlops_assets.serving.logs.push_log import PushRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class _EntityColumns(msgspec.Struct, gc=False):
    """The columns of a prediction that name an entity."""

    key: dict[str, Any]
    x: dict[str, Any]


def erase_predictions(folder: Path, entity: Mapping[str, str], *, dry_run: bool = False) -> int:
    """Blank the lines of predictions about an entity and return their number.

    Parameters
    ----------
    folder
        Folder of the log.
    entity
        Column → value as text; the columns are in the key of a prediction or in ``X``.
    dry_run
        Whether to count only.
    """
    decode = msgspec.json.Decoder(_EntityColumns).decode

    def change(line: bytes) -> tuple[bytes, int]:
        record = decode(line)
        values = {**record.x, **record.key}
        is_entity = all(column in values and str(values[column]) == value for column, value in entity.items())
        return (b"", 1) if is_entity else (line, 0)

    return _rewrite_lines(folder, change, dry_run=dry_run)


def erase_pushes(folder: Path, entity: Mapping[str, str], *, dry_run: bool = False) -> int:
    """Remove the rows of an entity from logged calls and return their number. A call stays in the log, even without rows.

    Parameters
    ----------
    folder, entity, dry_run
        As in :func:`erase_predictions`.
    """
    decode, encode = msgspec.json.Decoder(PushRecord).decode, msgspec.json.Encoder().encode

    def change(line: bytes) -> tuple[bytes, int]:
        record, signature = _decode_signed(line, decode)
        columns = record.columns
        if not entity.keys() <= columns.keys():
            return line, 0
        count = len(next(iter(columns.values()), []))
        remaining = [i for i in range(count) if not all(str(columns[name][i]) == value for name, value in entity.items())]
        if len(remaining) == count:
            return line, 0
        record.columns = {name: [values[i] for i in remaining] for name, values in columns.items()}
        return signature(encode(record)), count - len(remaining)

    return _rewrite_lines(folder, change, dry_run=dry_run)


def _decode_signed(line: bytes, decode: Callable[[bytes], PushRecord]) -> tuple[PushRecord, Callable[[bytes], bytes]]:
    """Return a call and the function that signs its new line: a line without a checksum gets none, and a wrong checksum stays wrong."""
    try:
        body = strip_checksum(line)
    except ChangedLineError:
        signed = line.rstrip()
        wrong = signed[-CHECKSUM_LENGTH:]
        return decode(signed[:-CHECKSUM_LENGTH] + b"}"), lambda new: new[:-1] + wrong
    return decode(body), sign_line if has_checksum(line) else bytes


def _rewrite_lines(folder: Path, change: Callable[[bytes], tuple[bytes, int]], *, dry_run: bool) -> int:
    """Replace changed lines of a log in place, padded with blanks, and return the number of erased items; unreadable lines stay.

    Parameters
    ----------
    folder, dry_run
        As in :func:`erase_predictions`.
    change
        Function from a line to the new line, which is not longer, and the number of erased items.
    """
    total = 0
    for path in list_files(folder, date.min, date.max):
        with path.open("rb" if dry_run else "r+b") as file:
            at = 0
            for line in file.read().split(b"\n")[:-1]:  # text after the last newline is torn or empty
                try:
                    shorter, count = change(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    shorter, count = line, 0  # erased before, or unreadable
                if count and not dry_run:
                    file.seek(at)
                    file.write(shorter.ljust(len(line)))
                    file.flush()
                total += count
                at += len(line) + 1
    return total
