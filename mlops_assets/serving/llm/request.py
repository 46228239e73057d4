"""One request to an endpoint: send it, limit its time and size, and translate what fails."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.serving.llm.connections import CONNECTIONS
from mlops_assets.serving.llm.embedded import start_server
from mlops_assets.serving.llm.failures import AttemptError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import httpx

    from mlops_assets.serving.llm.failures import AttemptObserver
    from mlops_assets.values.llm.provider import LLM

_MAX_CONNECT_SECONDS = 10.0
_MAX_ERROR_BYTES = 64 * 2**10
_EVENTS, _JSON = "text/event-stream", "application/json"


@dataclass(frozen=True)
class CompletionRequest:
    """Messages for a model or its fallbacks to complete, with the deadline of the call.

    Parameters
    ----------
    messages
        Messages of the chat.
    response_schema
        The JSON schema that the endpoint is asked to follow; None for any text.
    start, deadline
        Start of the call and its deadline, in seconds of the monotonic clock.
    observer
        Follows the attempts; None when they are not observed.
    """

    messages: Sequence[Mapping[str, Any]]
    response_schema: Mapping[str, Any] | None
    start: float
    deadline: float
    observer: AttemptObserver | None = None

    def to_body(self, llm: LLM, *, streams: bool = False) -> dict[str, Any]:
        """Return the body of the request to a model; the model's parameters replace entries of the same name.

        Parameters
        ----------
        llm
            The model.
        streams
            Whether the reply is a stream.
        """
        body: dict[str, Any] = {"messages": list(self.messages)}
        if self.response_schema is not None:
            schema = {"name": "response", "schema": self.response_schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if streams:
            body.update(stream=True)
            if "stream_options" not in dict(llm.parameters):
                body.update(stream_options={"include_usage": True})
        return {**body, **llm.request_parameters}

    def elapsed_seconds(self) -> float:
        """Return the seconds since the call began."""
        return time.monotonic() - self.start


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Return the body of a request as JSON.

    Raises
    ------
    DefinitionError
        A message or the response schema contains a value that JSON cannot express.
    """
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError):
        problem = "a message or the response schema for a language model is not JSON"
    raise DefinitionError(problem, hint="give texts, finite numbers, lists and dicts")


@dataclass(frozen=True)
class OpenReply:
    """A reply with status 200 that is being read.

    Parameters
    ----------
    chunks
        The bytes of the reply as they arrive.
    streams
        Whether the bytes are server-sent events; otherwise they are one JSON document.
    """

    chunks: Iterator[bytes]
    streams: bool


@contextmanager
def open_reply(llm: LLM, request: CompletionRequest, *, streams: bool, live: bool = False) -> Iterator[OpenReply]:
    """Wait for a slot, send a request and yield its reply, which has status 200 and an expected content type.

    Parameters
    ----------
    llm
        The model to ask.
    request
        The messages.
    streams
        Whether to ask for a stream. An endpoint may reply in one piece all the same.
    live
        Whether the caller passes on each piece at once: the reply must be a stream, and must not stall for longer than ``stall_timeout``.

    Raises
    ------
    AttemptError
        The request failed, or the reply is too large or too slow; also raised while the bytes are read.
    """
    import httpx

    content = encode_body(request.to_body(llm, streams=streams))
    url, key = _find_endpoint(llm, request)
    accepted = (_EVENTS,) if live else (_EVENTS, _JSON) if streams else (_JSON,)
    headers, slots = _make_headers(key, accepted), llm.slots
    with CONNECTIONS.slots.hold(llm.endpoint, slots, request.deadline - time.monotonic()):
        began = time.monotonic()
        deadline = min(request.deadline, began + llm.timeout.total_seconds())
        if deadline <= began:
            raise AttemptError.from_timeout(request.elapsed_seconds(), retryable=True, sent=False)
        waits = _make_timeouts(deadline - began, llm.stall_timeout.total_seconds() if live else deadline - began)
        # Built here, because Client.stream parses the URL and merges headers and cookies in each call.
        sent = httpx.Request("POST", _parse_url(url), headers=headers, content=content, extensions={"timeout": waits})
        try:
            with closing(CONNECTIONS.client().send(sent, stream=True)) as response:
                received = _check_head(response, accepted)
                yield OpenReply(_read_chunks(response, llm.max_bytes, began, deadline), received == _EVENTS)
        except httpx.HTTPError as error:
            failure = AttemptError.from_transport(error, time.monotonic() - began)
        else:
            return
    raise failure


def drain(chunks: Iterator[bytes]) -> None:
    """Read a stream to its end after the last event, so that its connection can be used again; failures are ignored.

    Parameters
    ----------
    chunks
        The remaining bytes.
    """
    import httpx

    with suppress(httpx.HTTPError, AttemptError):
        for _ in chunks:
            pass


@lru_cache(maxsize=256)
def _parse_url(url: str) -> httpx.URL:
    import httpx

    return httpx.URL(url)


def _make_timeouts(seconds: float, silence: float) -> dict[str, float]:
    """Return the timeouts of a request in seconds, as httpx's extension ``timeout`` takes them."""
    return {"connect": min(_MAX_CONNECT_SECONDS, seconds), "read": min(silence, seconds), "write": seconds, "pool": seconds}


def _find_endpoint(llm: LLM, request: CompletionRequest) -> tuple[str, str | None]:
    """Return the URL for a request and its API key, None without one; the server of the embedded model is started if needed.

    Raises
    ------
    AttemptError
        The API key is missing or cannot be sent in a header, or the server does not start.
    MissingExtraError
        The embedded model is not installed.
    """
    if llm.is_embedded:
        server = start_server(max(0.0, request.deadline - time.monotonic()))
        return f"{server.base_url}/chat/completions", server.api_key
    return llm.endpoint, None if llm.api_key_env is None else _read_key(llm.api_key_env)


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        problem = f"has no API key: the environment variable {variable} is {'not a valid key' if key else 'not set'}"
        raise AttemptError("configuration", problem, f"put the key into {variable}")
    return key


def _make_headers(key: str | None, accepted: Sequence[str]) -> dict[str, str]:
    headers = {
        "user-agent": CONNECTIONS.client().headers["user-agent"],
        "content-type": "application/json",
        "accept": ", ".join(accepted),
        "accept-encoding": "identity",  # so that max_bytes limits the memory too
    }
    return headers if key is None else {**headers, "authorization": f"Bearer {key}"}


def _check_head(response: httpx.Response, accepted: Sequence[str]) -> str:
    """Return the content type; raise AttemptError for a status other than 200 or a content type that is not accepted."""
    if response.status_code != 200:
        raise AttemptError.from_status(response.status_code, response.headers, _read_error(response))
    received: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if received not in accepted:
        shown = received if received in (_JSON, _EVENTS, "text/html", "text/plain") else "another content type"
        raise AttemptError.from_reply(f"sent {shown} instead of {' or '.join(accepted)}")
    return received


def _read_error(response: httpx.Response) -> bytes:
    """Return the beginning of an error reply, read for a second at most; empty when the connection fails."""
    import httpx

    body, deadline = b"", time.monotonic() + 1
    try:
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MAX_ERROR_BYTES or time.monotonic() > deadline:
                break
    except httpx.HTTPError:
        return b""  # the status says enough
    return body


def _read_chunks(response: httpx.Response, max_bytes: int, began: float, deadline: float) -> Iterator[bytes]:
    """Yield the bytes of a reply; raise AttemptError when they are too many or too late."""
    size = 0
    for chunk in response.iter_bytes() if "content-encoding" in response.headers else response.iter_raw():
        size += len(chunk)
        if size > max_bytes:
            raise AttemptError.from_reply(f"sent more than {max_bytes} bytes", hint="raise max_bytes, or lower max_tokens")
        if time.monotonic() > deadline:
            raise AttemptError.from_timeout(time.monotonic() - began, retryable=False)
        yield chunk
