"""HTTP/1.1 on one connection: uvicorn's protocol, which ignores upgrades and bounds the size of request heads."""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 65_536  # bytes of a request line and headers; the read in which a request begins is not counted
_MAX_FRAMING = 8  # bytes of framing that each byte of a chunked body may cost
_REPLY_431 = b'{"error":"the headers are too large","hint":"send at most 64 KiB of headers"}'
_OFFERS = (b"upgrade", b"http2-settings")


class HttpProtocol(HttpToolsProtocol):
    """Parses the requests of one connection.

    A request that offers HTTP/2 (`Upgrade: h2c`, as JVM clients send) is read with its body and answered over HTTP/1.1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (uvicorn's)
        super().__init__(*args, **kwargs)
        self._framing = self._body = 0

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; reply 400 to invalid HTTP, and 431 to headers or chunk framing that are too large."""
        self._unset_keepalive_if_required()
        self._framing += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._framing > MAX_HEAD + _MAX_FRAMING * self._body:
            self._refuse_head()

    def _feed(self, data: bytes) -> None:
        """Parse bytes; a head that offers an upgrade is parsed again without the offer, and ``CONNECT`` is invalid."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError from None
            head, rest = self._build_head_without_offer(), data[offer.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + rest)

    def _build_head_without_offer(self) -> bytes:
        """Return the request line and headers, as bytes, without those that offer an upgrade."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name in _OFFERS:
                continue
            tokens = [token for token in value.split(b",") if token.strip().lower() not in _OFFERS] if name == b"connection" else [value]
            if tokens:
                lines.append(name + b": " + b",".join(tokens))
        return b"\r\n".join([*lines, b"", b""])

    def _refuse_head(self) -> None:
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % len(_REPLY_431) + _REPLY_431)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Reset the byte counts for a new request."""
        self._framing = self._body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the reply, unless the head is parsed again without its upgrade."""
        if not self.parser.should_upgrade():
            self._framing = 0
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body, whose bytes are not framing."""
        self._framing -= len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body, unless the head is parsed again without its upgrade."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
