"""Other clients and tracers: ``python -m bench.projects.llm_peers CONTENDER FOLDER [URL MESSAGES]``, with the messages as JSON."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.projects.llm_work import ATTRIBUTES, PARAMETERS, time_calls, time_loop
from bench.worker import serve

Question = dict[str, Callable[..., dict[str, Any]]]


def open_client(contender: str, url: str, messages: list[dict[str, str]]) -> Callable[[], Any]:
    """Return a call of the endpoint by a client; autologging changes the client of the process, so that each has a process of its own."""
    if contender == "litellm":
        import litellm

        litellm.telemetry = False
        arguments = PARAMETERS | {"model": "openai/instant", "api_base": url, "api_key": "none", "num_retries": 2}
        return lambda: litellm.completion(messages=messages, **arguments)
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=2)
    return lambda: client.chat.completions.create(messages=messages, **PARAMETERS)  # type: ignore[call-overload]


def answer_calls(contender: str, url: str, messages: str) -> Question:
    """Return the questions of a client."""
    call = open_client(contender, url, json.loads(messages))

    def answer() -> dict[str, Any]:
        reply = call()
        return {"answer": [reply.choices[0].message.content, reply.usage.prompt_tokens, reply.usage.completion_tokens]}

    return {"answer": answer, "call": lambda times: time_calls(times, call)}


def answer_mlflow(folder: str) -> Question:
    """Return the questions of MLflow on SQLite; its queue is flushed before a time begins."""
    import httpx  # noqa: F401  (MLflow imports it in two threads at once, which fails now and then)
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.sqlite")
    mlflow.set_experiment("bench")
    mlflow.openai.autolog()

    def record() -> None:
        with mlflow.start_span("answer") as span:
            span.set_attributes(ATTRIBUTES)

    def flush() -> dict[str, Any]:
        return time_loop(1, mlflow.flush_trace_async_logging)

    def read_traces() -> dict[str, Any]:
        flush()
        with sqlite3.connect(f"{folder}/mlflow.sqlite") as connection:
            count = connection.execute("SELECT count(*) FROM trace_info").fetchone()[0]
        connection.close()
        span = mlflow.search_traces(max_results=1, return_type="list")[0].data.spans[0]
        kept = {name: value for name, value in span.attributes.items() if not name.startswith("mlflow.")}
        return {"count": count, "last": kept, "outputs": span.outputs}

    return {"record": lambda times: time_loop(times, record), "flush": flush, "traces": read_traces}


def answer_opentelemetry(contender: str, folder: str) -> Question:
    """Return the questions of OpenTelemetry's SDK, whose exporter writes spans to a file, one by one or in batches, or keeps them in memory."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    path, memory = Path(folder, "spans.jsonl"), InMemorySpanExporter()
    file = path.open("w", encoding="utf-8")

    def write_line(span: ReadableSpan) -> str:
        return span.to_json(indent=None) + "\n"

    provider = TracerProvider()
    exporter = memory if contender == "otel_memory" else ConsoleSpanExporter(out=file, formatter=write_line)
    batches = contender in ("otel_batches", "otel_background")
    provider.add_span_processor(BatchSpanProcessor(exporter) if batches else SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("bench")

    def record() -> None:
        with tracer.start_as_current_span("answer") as span:
            span.set_attributes(ATTRIBUTES)

    def record_all(times: int) -> dict[str, Any]:
        begun = time.perf_counter()
        time_loop(times, record)
        provider.force_flush()
        return {"seconds": (time.perf_counter() - begun) / times}

    def read_traces() -> dict[str, Any]:
        provider.force_flush()
        if contender != "otel_memory":
            lines = path.read_text(encoding="utf-8").splitlines()
            return {"count": len(lines), "last": json.loads(lines[-1])["attributes"]}
        spans = memory.get_finished_spans()
        return {"count": len(spans), "last": dict(spans[-1].attributes or {})}

    timed = record_all if contender == "otel_batches" else lambda times: time_loop(times, record)
    return {"record": timed, "flush": lambda: time_loop(1, provider.force_flush), "traces": read_traces}


def main(contender: str, folder: str, url: str = "http://127.0.0.1:9/v1", messages: str = "[]") -> None:
    """Answer questions."""
    if contender.startswith("otel"):
        serve(answer_opentelemetry(contender, folder))
    elif contender == "mlflow":
        serve(answer_mlflow(folder) | answer_calls(contender, url, messages))
    else:
        serve(answer_calls(contender, url, messages))


if __name__ == "__main__":
    main(*sys.argv[1:])
