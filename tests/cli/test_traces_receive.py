"""`mlops traces receive` takes the traces of an application that uses the official OpenTelemetry SDK."""

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest

from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.llm.span import Span
from mlops_assets.values.platform import Platform
from tests.commands import run_mlops
from tests.compute.llm_traces.otlp_json_writer import write_json_spans
from tests.conftest import clean_environment

BIN = Path(sys.executable).parent
PROJECT = """
import mlops_assets as ml
defs = ml.build_definitions([ml.llm.TraceSource("shop", start="{start}")])
"""
APPLICATION = '''
"""A shop: each question is a request of two steps, traced as instrumentations of four conventions do."""
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

processor = {"simple": SimpleSpanProcessor, "batch": BatchSpanProcessor}[sys.argv[1]]
provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor(processor(OTLPSpanExporter()))
tracer = provider.get_tracer("shop")
CONVENTIONS = [
    {"gen_ai.operation.name": "chat", "gen_ai.request.model": "tiny", "gen_ai.response.model": "tiny-1",
     "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3, "gen_ai.response.finish_reasons": ["stop"],
     "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "Is JFK late? ada@example.org"}]}]',
     "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "Yes."}], "finish_reason": "stop"}]'},
    {"llm.request.type": "chat", "gen_ai.request.model": "tiny-1", "gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": 3,
     "gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Is JFK late? ada@example.org",
     "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "Yes."},
    {"openinference.span.kind": "LLM", "llm.model_name": "tiny-1", "llm.token_count.prompt": 7, "llm.token_count.completion": 3,
     "input.value": "Is JFK late? ada@example.org", "output.value": "Yes."},
    {"gen_ai.operation.name": "chat", "gen_ai.request.model": "tiny-1", "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3},
]
for attributes in CONVENTIONS:
    with tracer.start_as_current_span("question"):
        with tracer.start_as_current_span("chat tiny", attributes=attributes) as span:
            if len(attributes) == 4:
                span.add_event("gen_ai.user.message", {"content": "Is JFK late? ada@example.org"})
                span.add_event("gen_ai.choice", {"index": 0, "finish_reason": "stop", "content": "Yes."})
provider.force_flush()  # waits for retries; a shutdown gives them up
provider.shutdown()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "definitions.py").write_text(PROJECT.format(start=datetime.now(UTC).date().isoformat()))
    (tmp_path / "shop.py").write_text(textwrap.dedent(APPLICATION))
    return tmp_path


@contextlib.contextmanager
def receiving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Yield a receiver and its endpoint, from its own output; it is stopped at the end."""
    command = [BIN / "mlops", "traces", "receive", "shop", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=folder, env=clean_environment(folder / ".mlops"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        yield process, lines[1].rpartition("=")[2].strip()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def send(folder: Path, endpoint: str, processor: str) -> None:
    environment = clean_environment(folder / ".mlops", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    done = subprocess.run([sys.executable, "shop.py", processor], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def import_traces(folder: Path) -> pl.DataFrame:
    day = datetime.now(UTC).date().isoformat()
    done = run_mlops(["run", "--partitions", day], cwd=folder, env=clean_environment(folder / ".mlops"))
    assert done.returncode == 0, done.stdout + done.stderr
    return open_stores(Platform.at(folder / ".mlops")).lake.read("traces/shop")


def test_traces_of_the_official_sdk_are_rows_with_tokens_model_input_and_output(folder) -> None:
    with receiving(folder) as (process, endpoint):
        send(folder, endpoint, "batch")
        send(folder, endpoint, "simple")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert "received 16 spans" in process.stdout.read()
    rows = import_traces(folder)
    assert (rows.height, rows["trace_id"].n_unique()) == (16, 8)
    calls = rows.filter(pl.col("operation") == "chat")
    assert calls.select("model", "input_tokens", "output_tokens", "output").unique().rows() == [("tiny-1", 7, 3, "Yes.")]
    assert calls["input"].str.contains("Is JFK late? [e-mail address]", literal=True).all()
    roots = rows.filter(pl.col("parent_id").is_null())
    assert roots["name"].unique().to_list() == ["question"]
    assert sorted(calls["parent_id"]) == sorted(roots["span_id"])


def test_a_span_waits_at_the_sender_until_the_log_can_be_written_again(folder) -> None:
    with receiving(folder) as (process, endpoint):
        logs = folder / ".mlops" / "services" / "shop" / "traces"
        logs.rename(logs.with_suffix(".away"))
        logs.write_text("in the way")
        sender = subprocess.Popen(
            [sys.executable, "shop.py", "batch"],
            cwd=folder,
            env=clean_environment(folder / ".mlops", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert sender.stderr is not None
        assert "Service Unavailable encountered while exporting span" in sender.stderr.readline()
        logs.unlink()
        logs.with_suffix(".away").rename(logs)
        sender.communicate(timeout=120)
        process.terminate()
        process.wait(timeout=60)
        assert "received 8 spans in 1 requests, refused 0 spans" in process.stdout.read()


def test_received_spans_survive_a_kill_and_count_once_when_they_are_sent_again(folder) -> None:
    now = time.time_ns()
    body = write_json_spans([Span("a" * 32, "b" * 16, None, "question", now, now, "ok")])
    for _ in range(2):
        with receiving(folder) as (process, endpoint):
            reply = httpx.post(f"{endpoint}/v1/traces", content=body, headers={"content-type": "application/json"}, timeout=60)
            process.kill()
            assert (reply.status_code, reply.json()) == (200, {})
    assert import_traces(folder).select("span_id", "name").rows() == [("b" * 16, "question")]


def test_a_source_or_an_address_that_cannot_be_used_is_named(folder) -> None:
    with receiving(folder) as (_, endpoint):
        port = endpoint.rpartition(":")[2]
        command = ["traces", "receive", "shop", "--port", port]
        assert run_mlops(command, cwd=folder, env=clean_environment(folder / ".mlops")).returncode == 1
    done = run_mlops(["traces", "receive", "shp"], cwd=folder, env=clean_environment(folder / ".mlops"))
    assert (done.returncode, "there is no source of traces 'shp'" in done.stderr, "shop" in done.stderr) == (1, True, True)


def test_ports_that_do_not_exist_are_refused(folder) -> None:
    done = run_mlops(["traces", "receive", "shop", "--port", "70000"], cwd=folder, env=clean_environment(folder / ".mlops"))
    assert (done.returncode, "0<=x<=65535" in done.stderr) == (2, True), done.stderr


def test_an_address_of_ipv6_is_announced_as_a_url(folder) -> None:
    with receiving(folder, "--host", "::1") as (_, endpoint):
        assert endpoint.startswith("http://[::1]:")
        assert httpx.post(f"{endpoint}/v1/traces", json={}, timeout=60).status_code == 200


SERVICE = """
import polars as pl
import mlops_assets as ml

@ml.dataset(key="case")
def questions() -> pl.DataFrame:
    return pl.DataFrame({"case": [1], "question": ["?"], "expected": ["!"]})

@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url="http://127.0.0.1:9/v1", max_tokens=20))
def reply(question: str) -> None:
    \"\"\"Answer in one word.\"\"\"

scorers, gates = [ml.llm.ExactMatch("expected")], [ml.Gate("exact_match", at_least=0.6)]
replies = ml.llm.PromptEvaluation("replies", prompt=reply, cases=questions, scorers=scorers, gates=gates)
service = ml.llm.PromptService("reply_api", prompt=reply)
same = ml.llm.TraceSource("same", folder=".mlops/services/reply_api/traces")
defs = ml.build_definitions([questions, reply, replies, service, same])
"""


@pytest.mark.parametrize("source", ["reply_api", "same"])
def test_the_log_of_a_service_receives_nothing_from_outside(folder, source) -> None:
    (folder / "definitions.py").write_text(SERVICE)
    done = run_mlops(["traces", "receive", source, "--port", "0"], cwd=folder, env=clean_environment(folder / ".mlops"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"'{source}' is the log of the service 'reply_api', which receives no other traces" in done.stderr
    assert "declare a source for the application" in done.stderr
