"""Lines of JSON with a checksum that reveals any change."""

from __future__ import annotations

from zlib import crc32

_MARK = b',"crc":"'
CHECKSUM_LENGTH = len(_MARK) + 10  # eight digits, a quote, a brace


class ChangedLineError(ValueError):
    """A line has changed since it was written."""


def sign_line(line: bytes) -> bytes:
    """Return a JSON object with the additional field ``crc``: the CRC-32 of the object, in eight hexadecimal digits."""
    return b"".join((line[:-1], _MARK, crc32(line).to_bytes(4).hex().encode(), b'"}'))


def strip_checksum(line: bytes) -> bytes:
    """Verify the checksum of a line and return the object without it; an old line without a checksum is returned as it is.

    Raises
    ------
    ChangedLineError
        The checksum does not match.
    """
    line = line.rstrip()
    body, mark, rest = (
        line[:-CHECKSUM_LENGTH],
        line[-CHECKSUM_LENGTH : -CHECKSUM_LENGTH + len(_MARK)],
        line[-CHECKSUM_LENGTH + len(_MARK) :],
    )
    if mark != _MARK:
        return line
    body += b"}"
    if rest != b'%08x"}' % crc32(body):
        raise ChangedLineError
    return body


def has_checksum(line: bytes) -> bool:
    """Whether a line has a checksum, right or wrong."""
    return line.rstrip()[-CHECKSUM_LENGTH : -CHECKSUM_LENGTH + len(_MARK)] == _MARK
