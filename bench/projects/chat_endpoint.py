"""A language model that answers at once, or after ``SECONDS``: an OpenAI-compatible endpoint on a free port, whose URL is printed.

A GET returns how many requests were answered, and the last one. An endpoint that waits says "no" to every third text.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from zlib import crc32

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def encode_reply(document: dict[str, object]) -> bytes:
    """Return a document as an HTTP reply."""
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def encode_answer(text: str) -> bytes:
    """Return a completion as an HTTP reply."""
    message = {"role": "assistant", "content": text}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "instant"}
    usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
    return encode_reply(head | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})


YES, NO = encode_answer("yes"), encode_answer("no")


class Endpoint(asyncio.Protocol):
    """Reads requests of one connection and answers each."""

    requests, last, seconds = 0, b"null", 0.0

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the connection."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the requests that are complete."""
        self.received += data
        while (end := self.received.find(b"\r\n\r\n") + 4) > 3:
            found = LENGTH.search(self.received, 0, end)
            stop = end + (int(found[1]) if found else 0)
            if len(self.received) < stop:
                return
            is_get, body, self.received = self.received.startswith(b"GET"), self.received[end:stop], self.received[stop:]
            if is_get:
                self.transport.write(encode_reply({"requests": Endpoint.requests, "last": json.loads(Endpoint.last)}))
            elif Endpoint.seconds:
                asyncio.get_running_loop().call_later(Endpoint.seconds, self.answer, body, NO if crc32(body) % 3 == 0 else YES)
            else:
                self.answer(body, YES)

    def answer(self, body: bytes, reply: bytes) -> None:
        """Send a reply."""
        Endpoint.requests += 1
        Endpoint.last = body
        self.transport.write(reply)


async def serve() -> None:
    """Serve until the process is killed."""
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    Endpoint.seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    asyncio.run(serve())
