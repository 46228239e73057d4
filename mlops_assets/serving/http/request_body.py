"""Decode the body of a request to JSON in UTF-8, within bounds, or refuse it by its encoding or content type."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from mlops_assets.serving.predict.request_schema import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_UTF8 = ("", "utf-8", "utf8", "us-ascii", "ascii")
_GZIP = 31  # zlib's number for gzip with its header
_MAX_MEMBERS = 64  # of one gzip body: each one costs a copy of the rest
_PLAIN_TYPES = ("", "application/x-www-form-urlencoded")  # what clients send by default
_HINT = "send JSON in UTF-8, plain or with Content-Encoding: gzip"


def read_body(headers: Iterable[tuple[bytes, bytes]], body: bytes, max_bytes: int) -> bytes:
    """Return a body decompressed and without a byte order mark.

    Parameters
    ----------
    headers
        Headers of the request, names in lower case.
    body
        The bytes of the request.
    max_bytes
        Limit of a decompressed body; the caller checks a body that is not compressed.

    Raises
    ------
    RequestError
        415 for an encoding that is not accepted, 413 for gzip that decompresses to too many bytes, 400 for gzip that is damaged or has
        too many members.
    """
    encoding, kind = _read_content_headers(headers)
    if encoding in ("gzip", "x-gzip"):
        body = _unpack(body, max_bytes)
    elif encoding not in ("", "identity"):
        raise _build_media_type_error(f"the content encoding '{encoding}' is not accepted")
    charset = _find_charset(kind)
    if charset not in _UTF8 and not body.isascii():
        raise _build_media_type_error(f"the charset '{charset}' is not accepted")
    return body.removeprefix(_BOM)


def explain_not_json(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> RequestError | None:
    """Return an error with status 415 if the content type or encoding explains why a body is not JSON, else None.

    Parameters
    ----------
    headers, body
        Headers and body of the request.
    """
    _, kind = _read_content_headers(headers)
    media = kind.partition(";")[0].strip()
    if body.startswith(_WIDE) or b"\0" in body[:4]:
        return _build_media_type_error("the body is UTF-16 or UTF-32, which is not accepted")
    if media not in _PLAIN_TYPES and not media.endswith(("/json", "+json")):
        return _build_media_type_error(f"the content type '{media}' is not accepted")
    try:
        body.decode()
    except UnicodeDecodeError:
        return _build_media_type_error("the body is not UTF-8")
    return None


def _read_content_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str]:
    """Return content encoding and content type, in lower case and at most 100 characters each; empty when they are absent."""
    encoding, kind = b"", b""
    for name, value in headers:
        if name == b"content-encoding":
            encoding = value
        elif name == b"content-type":
            kind = value
    return _keep_printable(encoding), _keep_printable(kind)


def _keep_printable(value: bytes) -> str:
    return "".join(letter for letter in value.decode("latin-1").strip().lower()[:100] if letter.isprintable())


def _find_charset(kind: str) -> str:
    parameters = (part.strip() for part in kind.split(";")[1:])
    return next((part.removeprefix("charset=").strip("\"' ") for part in parameters if part.startswith("charset=")), "")


def _unpack(body: bytes, max_bytes: int) -> bytes:
    """Decompress a gzip body, which may have several members; raise RequestError as soon as it is too large, or if it is damaged."""
    parts, size, rest = list[bytes](), 0, body
    try:
        while rest:
            if len(parts) == _MAX_MEMBERS:
                raise RequestError(f"the gzip body has more than {_MAX_MEMBERS} members", hint="compress the body as a whole", status=400)
            member = zlib.decompressobj(_GZIP)
            parts.append(member.decompress(rest, max_bytes + 1 - size))
            size += len(parts[-1])
            if size > max_bytes:
                raise RequestError(
                    f"the unpacked body is larger than {max_bytes} bytes", hint="send the rows in several requests", status=413
                )
            if not member.eof:
                raise RequestError("the gzip body is cut off", hint=_HINT, status=400)
            rest = member.unused_data
    except zlib.error:
        raise RequestError("the body is not gzip, as its Content-Encoding says", hint=_HINT, status=400) from None
    return b"".join(parts)


def _build_media_type_error(message: str) -> RequestError:
    return RequestError(message, hint=_HINT, status=415)
