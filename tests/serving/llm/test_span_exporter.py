"""Spans are sent to a collector in the background: retried within bounds, counted when they are lost, flushed at the end."""

import subprocess
import sys
import time
from collections import Counter

import pytest

import mlops_assets as ml
from mlops_assets.errors import MissingExtraError, ServiceError
from mlops_assets.serving.llm import span_exporter
from mlops_assets.serving.llm.failures import read_pause
from mlops_assets.serving.llm.span_exporter import SpanExporter, read_headers
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.values.llm.span import Span, make_span_id, make_trace_id
from tests.conftest import clean_environment
from tests.serving.llm.collector import Collector, hang, refuse, reject, take_at_most


def make_spans(count: int = 3) -> list[Span]:
    return [
        Span(make_trace_id(0), make_span_id(), None, f"step {n}", 0, 1, "ok", "", {"gen_ai.usage.input_tokens": n}) for n in range(count)
    ]


class Sender:
    """An exporter and its counters."""

    def __init__(self, endpoint: str, **more) -> None:
        self.counts = Counter[str]()
        self.exporter = SpanExporter(endpoint, "shop", count=self._count, **more)

    def _count(self, name: str, by: int) -> None:
        self.counts[name] += by


@pytest.fixture(autouse=True)
def hurry(monkeypatch) -> None:
    monkeypatch.setattr(span_exporter, "_INTERVAL", 0.05)
    monkeypatch.setattr(span_exporter, "_FIRST_PAUSE", 0.01)


def test_spans_arrive_with_their_attributes_and_the_name_of_the_service() -> None:
    spans = make_spans()
    with Collector() as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(spans)
        collector.wait_for(lambda c: len(c.spans) == 3)
        sender.exporter.close()
    assert [span.span_id.hex() for span in collector.spans] == [span.span_id for span in spans]
    assert collector.spans[2].attributes[0].value.int_value == 2
    assert collector.services == {"shop"}
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    assert sender.counts == {"exported_spans": 3}


def test_the_end_flushes_what_waits(monkeypatch) -> None:
    monkeypatch.setattr(span_exporter, "_INTERVAL", 600.0)
    with Collector() as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_spans(1300))
        sender.exporter.close(seconds=60)
    assert (len(collector.spans), sender.counts) == (1300, {"exported_spans": 1300})
    assert len(collector.requests) == 3


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_collector_is_asked_again_after_the_time_that_it_names(status, capsys) -> None:
    with Collector(refuse(status), refuse(status, retry_after="1")) as collector:
        sender = Sender(collector.endpoint)
        began = time.monotonic()
        sender.exporter.add(make_spans())
        collector.wait_for(lambda c: len(c.spans) == 3)
        sender.exporter.close()
    assert time.monotonic() - began >= 1.0
    assert (len(collector.requests), sender.counts) == (3, {"exported_spans": 3})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("step", "attempts", "reason"),
    [
        (refuse(503), span_exporter._MAX_ATTEMPTS, "status 503"),
        (refuse(413), 5, "status 413"),
        (refuse(400), 1, "status 400"),
        (refuse(401), 1, "status 401"),
        (refuse(301, location="http://127.0.0.1:9/"), 1, "status 301"),
    ],
)
def test_spans_that_a_collector_refuses_are_counted_and_named_once(step, attempts, reason, capsys) -> None:
    with Collector(default=step) as collector:
        sender = Sender(collector.endpoint)
        for number in (1, 2):
            sender.exporter.add(make_spans())
            wait_for_counts(sender, 3 * number)
            assert len(collector.requests) == attempts * number
        sender.exporter.close()
    assert sender.counts == {"unexported_spans": 6}
    error = capsys.readouterr().err
    assert error.count("were not sent") == 1
    assert f"3 spans of 'shop' were not sent to {collector.endpoint}/v1/traces: {reason}; the trace log has them" in error


def test_a_pause_that_the_collector_asks_for_holds_for_all_batches(monkeypatch, capsys) -> None:
    monkeypatch.setattr(span_exporter, "_BATCH", 3)
    monkeypatch.setattr(span_exporter, "MAX_QUEUE", 9)
    with Collector(default=refuse(503, retry_after="3600")) as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_spans())
        collector.wait_for(lambda c: len(c.requests) == 1)
        for _ in range(8):
            sender.exporter.add(make_spans())
        wait_for_counts(sender, 3 * 5)
        began = time.monotonic()
        sender.exporter.close(seconds=1)
        assert time.monotonic() - began < 20
        assert len(collector.requests) == 1
    assert sender.counts == {"unexported_spans": 27}
    assert "the queue is full" in capsys.readouterr().err


def test_the_next_batch_waits_as_long_as_the_collector_asks() -> None:
    with Collector(refuse(429, retry_after="1.5")) as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_spans(span_exporter._BATCH + 3))
        collector.wait_for(lambda c: len(c.requests) == 1)
        began = time.monotonic()
        collector.wait_for(lambda c: len(c.spans) == span_exporter._BATCH + 3)
        assert time.monotonic() - began > 1
        sender.exporter.close()
    assert len(collector.requests) == 3


def test_a_pause_that_is_no_number_is_none() -> None:
    assert [read_pause(text) for text in ("nan", "", "soon", "2", "-1")] == [None, None, None, 2.0, 0.0]


def test_a_collector_that_asks_for_no_pause_is_not_hammered(monkeypatch) -> None:
    monkeypatch.setattr(span_exporter, "_FIRST_PAUSE", 0.2)
    with Collector(*[refuse(503, retry_after="0")] * 3) as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_spans())
        collector.wait_for(lambda c: len(c.requests) == 1)
        began = time.monotonic()
        collector.wait_for(lambda c: len(c.spans) == 3)
        assert time.monotonic() - began > 0.5  # of 0.2 + 0.4 + 0.8 seconds, halved by jitter
        sender.exporter.close()


def test_a_batch_that_is_too_large_is_sent_in_parts() -> None:
    with Collector(default=take_at_most(3)) as collector:
        sender = Sender(collector.endpoint)
        spans = make_spans(10)
        sender.exporter.add(spans)
        collector.wait_for(lambda c: len(c.spans) == 10)
        sender.exporter.close()
    assert [span.span_id.hex() for span in collector.spans] == [span.span_id for span in spans]
    assert sender.counts == {"exported_spans": 10}


def make_large_spans(count: int, size: int) -> list[Span]:
    return [Span(make_trace_id(0), make_span_id(), None, "chat", 0, 1, "ok", "", {"mlops.output": "ü" * (size // 2)}) for _ in range(count)]


def test_requests_and_the_queue_are_bounded_by_their_bytes(monkeypatch) -> None:
    monkeypatch.setattr(span_exporter, "_INTERVAL", 600.0)
    monkeypatch.setattr(span_exporter, "MAX_QUEUE_BYTES", 9_000_000)
    with Collector() as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_large_spans(512, 40_000))
        sender.exporter.close(seconds=60)
    taken = len(collector.spans)
    assert 200 < taken <= 9_000_000 // 40_000 + 110
    assert sender.counts == {"exported_spans": taken, "unexported_spans": 512 - taken}
    assert max(collector.sizes) <= span_exporter._BATCH_BYTES
    assert {headers["content-encoding"] for _, headers in collector.requests} == {"gzip"}
    assert all(int(headers["content-length"]) < 400_000 for _, headers in collector.requests)


def wait_for_counts(sender: Sender, spans: int) -> None:
    until = time.monotonic() + 60
    while sum(sender.counts.values()) < spans:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_spans_that_a_collector_rejects_are_counted() -> None:
    with Collector(reject(2)) as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_spans())
        wait_for_counts(sender, 3)
        sender.exporter.close()
    assert sender.counts == {"exported_spans": 1, "unexported_spans": 2}


def test_a_collector_that_hangs_delays_the_end_by_its_bound_only(capsys) -> None:
    with Collector(default=hang) as collector:
        sender = Sender(collector.endpoint)
        sender.exporter.add(make_spans())
        collector.wait_for(lambda c: len(c.requests) == 1)
        sender.exporter.add(make_spans(2))
        began = time.monotonic()
        sender.exporter.close(seconds=0.5)
        assert time.monotonic() - began < 5
        assert sender.counts == {"unexported_spans": 5}
    assert "the process ended first" in capsys.readouterr().err
    sender.exporter._thread.join(60)
    assert sender.counts == {"unexported_spans": 5}


def test_a_collector_that_is_down_fills_the_queue_and_no_more(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(span_exporter, "MAX_QUEUE", 10)
    with Collector() as gone:
        endpoint = gone.endpoint
    monkeypatch.setattr(span_exporter, "_FIRST_PAUSE", 20.0)
    sender = Sender(endpoint)
    log = TraceLog(tmp_path / "traces", export=sender.exporter.add)
    began = time.monotonic()
    for _ in range(100):
        log.write(make_spans())
    assert time.monotonic() - began < 20
    sender.exporter.close(seconds=0.2)
    log.close()
    assert sender.counts == {"unexported_spans": 300}


def test_a_log_that_cannot_be_written_sends_nothing(monkeypatch, tmp_path) -> None:
    sent = list[Span]()
    log = TraceLog(tmp_path / "traces", export=sent.extend)
    log.close()

    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._log, "write", fail)
    with pytest.raises(OSError, match="No space"):
        log.write(make_spans())
    assert sent == []


def test_headers_come_from_a_variable(monkeypatch) -> None:
    monkeypatch.setenv("COLLECTOR_HEADERS", "authorization=Bearer%20secret, x-team=flights")
    with Collector() as collector:
        sender = Sender(collector.endpoint, headers_env="COLLECTOR_HEADERS")
        sender.exporter.add(make_spans(1))
        collector.wait_for(lambda c: len(c.spans) == 1)
        sender.exporter.close()
    headers = collector.requests[0][1]
    assert (headers["authorization"], headers["x-team"]) == ("Bearer secret", "flights")
    assert headers["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize("value", ["", "secret", "a b=secret", "a=secret%0ax: y", "=secret"])
def test_a_variable_without_headers_is_named_and_not_quoted(monkeypatch, value) -> None:
    monkeypatch.setenv("COLLECTOR_HEADERS", value)
    with pytest.raises(ServiceError, match="COLLECTOR_HEADERS holds no headers") as raised:
        read_headers("COLLECTOR_HEADERS")
    assert "secret" not in str(raised.value)


def test_without_the_extra_the_error_names_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.trace.v1.trace_service_pb2", None)
    with pytest.raises(MissingExtraError, match=r"mlops_assets\[otlp\]"):
        SpanExporter("http://127.0.0.1:9", "shop")


APPLICATION = """
import sys
import mlops_assets as ml

bot = ml.llm.TraceSource("bot", otlp_endpoint=sys.argv[1])

@ml.llm.trace
def retrieve():
    return "JFK"

for _ in range(3):
    with ml.llm.start_trace(bot, "answer") as root:
        root.attributes["mlops.output"] = retrieve()
"""


def test_the_traces_of_an_application_are_sent_before_it_ends(tmp_path) -> None:
    with Collector() as collector:
        command = [sys.executable, "-c", APPLICATION, collector.endpoint]
        done = subprocess.run(command, cwd=tmp_path, env=clean_environment(tmp_path / "home"), capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert Counter(span.name for span in collector.spans) == {"answer": 3, "retrieve": 3}
    assert collector.services == {"bot"}


FORKING = """
import multiprocessing
import os
import sys
import mlops_assets as ml

bot = ml.llm.TraceSource("bot", otlp_endpoint=sys.argv[1])

def answer(name):
    with ml.llm.start_trace(bot, name):
        pass

answer("parent")
child = multiprocessing.get_context("fork").Process(target=answer, args=("child",))
child.start()
child.join()
with ml.llm.start_trace(bot, "both"):
    worker = os.fork()
if not worker:
    sys.exit(0)
os.waitpid(worker, 0)
answer("after")
"""


def test_a_forked_process_has_a_log_and_a_sender_of_its_own(tmp_path) -> None:
    with Collector() as collector:
        command = [sys.executable, "-c", FORKING, collector.endpoint]
        done = subprocess.run(command, cwd=tmp_path, env=clean_environment(tmp_path / "home"), capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert Counter(span.name for span in collector.spans) == {"parent": 1, "child": 1, "both": 2, "after": 1}
    files = list((tmp_path / "home" / "services" / "bot" / "traces").glob("*/*.jsonl"))
    assert sorted(path.read_text().count("\n") for path in files) == [1, 1, 3]
    assert len({path.name.partition("-")[0] for path in files}) == 3


def test_an_address_that_is_no_collector_is_refused_without_quoting_it() -> None:
    for wrong in ("collector:4318", "http://user:key@collector:4318", "http://collector:4318/v1/traces"):
        with pytest.raises(ml.errors.DefinitionError, match="otlp_endpoint of the source of traces 'bot'") as raised:
            ml.llm.TraceSource("bot", otlp_endpoint=wrong)
        assert wrong not in str(raised.value)
    with pytest.raises(ml.errors.DefinitionError, match="needs an otlp_endpoint"):
        ml.llm.TraceSource("bot", otlp_headers_env="HEADERS")
