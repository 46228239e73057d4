"""A prompt's application on a real socket, with a scripted endpoint as its model."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import polars as pl

import mlops_assets as ml
from mlops_assets.compute.llm_evaluation.prices import PriceTable
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.prompt_app import PromptApp
from mlops_assets.serving.http.server import make_server
from mlops_assets.serving.http.service_folder import TargetVersion
from mlops_assets.serving.http.supervisor import listen
from mlops_assets.serving.logs.trace_log import TraceLog, read_traces
from mlops_assets.serving.prompts.api_keys import ApiKeys
from mlops_assets.serving.prompts.call_runner import CallRunner
from mlops_assets.serving.prompts.endpoints import PromptEndpoints
from mlops_assets.serving.prompts.feedback import FeedbackStore
from mlops_assets.serving.prompts.served_prompt import ServedPrompt
from mlops_assets.serving.prompts.settings import PromptSettings, decode_settings, encode_settings
from mlops_assets.stores.llm.budget_ledger import BudgetLedger
from mlops_assets.values.llm.span import Span


def make_prompt(url: str, function: Any = None, response: Any = None, examples: Sequence[Any] = (), **model: Any):
    """Return a prompt on a scripted endpoint."""

    def reply(question: str, context: str = "", sentences: int = 1) -> None:
        """Answer the question in {sentences} sentences."""

    llm = ml.llm.LLM("tiny", base_url=url, **{"retries": 0, "max_tokens": 100} | model)
    return ml.llm.prompt(model=llm, response=response, examples=examples)(function or reply)


@ml.dataset(key=["model", "valid_from"])
def model_prices() -> pl.DataFrame:
    return pl.DataFrame({"model": ["tiny"], "valid_from": [date(2026, 1, 1)], "input_price": [1.0], "output_price": [2.0]})


class Stand:
    """A running application with its folder and a client."""

    def __init__(self, folder: Path, app: PromptApp, log: TraceLog, ledger: BudgetLedger, *, needs_key: bool) -> None:
        self.needs_key = needs_key
        self.folder, self.app, self.log, self.ledger = folder, app, log, ledger
        self.client = httpx.Client(timeout=60)

    def promote(self, prompt: Any, version: int = 1) -> None:
        """Let the application answer with a version."""
        self.app.model = ServedPrompt(prompt, TargetVersion(version, ml.llm.hash_prompt(prompt), "artifact"), needs_key=self.needs_key)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """Send a body as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, content=content, headers={"content-type": "application/json"} | headers)

    def answer(self, body: object = None, **headers: str) -> httpx.Response:
        """Ask the prompt."""
        return self.post("/answer", {"question": "Is it late?"} if body is None else body, **headers)

    def spans(self) -> list[Span]:
        """Return all spans of the trace log."""
        return [span for spans in read_traces(self.folder / "traces", date.min, date.max).values() for span in spans]


@contextmanager
def serve(folder: Path, prompt: Any = None, max_waiting: int = 32, prices: PriceTable | None = None, **settings: Any) -> Iterator[Stand]:
    """Run the application of a prompt's service; its settings pass through the text that a worker would read."""
    declared = settings if prices is None else settings | {"prices": model_prices}
    service = ml.llm.PromptService("reply_api", prompt=prompt or make_prompt("http://127.0.0.1:9/v1"), **declared)
    read: PromptSettings = decode_settings(encode_settings(service, prices))
    log, ledger = TraceLog(folder / "traces"), BudgetLedger(folder / "ledger.sqlite", read.budget, read.rate_limits)
    keys = ApiKeys(read.keys_env) if read.keys_env else None
    endpoints = PromptEndpoints(CallRunner(read, ledger, log), FeedbackStore(log, ledger, keys), keys=keys, redact=read.redact)
    metrics, versions = Metrics(folder / "metrics", 0), lambda: {0: app.model and app.model.version}
    app = PromptApp(
        endpoints, ledger=ledger, log=log, metrics=metrics, max_bytes=service.max_bytes, versions=versions, max_waiting=max_waiting
    )
    stand = Stand(folder, app, log, ledger, needs_key=keys is not None)
    if prompt is not None:
        stand.promote(prompt)
    try:
        with run_server(app) as url, stand.client:
            stand.client.base_url = url
            yield stand
    finally:
        log.close()
        ledger.close()


@contextmanager
def run_server(app: Any) -> Iterator[str]:
    """Run an application in a thread, and yield its URL."""
    server, ready = make_server(app), threading.Event()
    listener = listen(_Address(), None)

    async def run() -> None:
        server.config.loaded or server.config.load()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
            await asyncio.sleep(0.005)
        ready.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


class _Address:
    name, host, port = "reply_api", "127.0.0.1", 0


def read_events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Return name and data of each event of a stream."""
    found = []
    for block in response.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event", ""), lines["data"] if lines["data"] == "[DONE]" else json.loads(lines["data"])))
    return found
