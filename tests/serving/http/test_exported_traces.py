"""A prompt's service sends its traces to a collector; a collector that fails costs no answer, and the metrics count what was not sent."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import httpx
import pytest

import mlops_assets as ml
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.prompt_worker import open_prompt_app
from mlops_assets.serving.http.service_folder import ServiceSpec, TargetVersion
from mlops_assets.serving.llm import span_exporter
from mlops_assets.serving.logs.trace_log import read_traces
from mlops_assets.serving.prompts.served_prompt import ServedPrompt
from mlops_assets.serving.prompts.settings import encode_settings
from tests.serving.llm.collector import Collector, hang, refuse
from tests.serving.llm.scripted_server import ScriptedServer
from tests.serving.prompts.support import make_prompt, run_server

CALLS = 20


class Exporting:
    """A worker's application that sends traces to a collector."""

    def __init__(self, url: str, spec: ServiceSpec, close) -> None:
        self.url, self.spec, self._close = url, spec, close

    def ask(self) -> list[int]:
        """Call the service from four threads, and return the status of each reply."""
        codes: list[int] = []

        def call() -> None:
            for _ in range(CALLS // 4):
                body = {"question": "Is JFK late? ada@example.org"}
                codes.append(httpx.post(f"{self.url}/answer", json=body, timeout=60).status_code)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes

    def count(self, name: str) -> int:
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        return int(re.search(rf"^mlops_{name}_total (\d+)$", text, re.MULTILINE)[1])

    def wait_for(self, name: str, count: int) -> None:
        until = time.monotonic() + 60
        while self.count(name) < count:
            assert time.monotonic() < until, self.count(name)
            time.sleep(0.05)

    def end(self) -> float:
        """End the worker as the service does, and return the seconds that it took."""
        began = time.monotonic()
        self._close()
        return time.monotonic() - began

    @property
    def logged(self) -> set[str]:
        return {span.span_id for spans in read_traces(self.spec.folder.traces, date.min, date.max).values() for span in spans}


@contextmanager
def exporting(tmp_path, endpoint: str, capture: bool = True) -> Iterator[Exporting]:
    with ScriptedServer() as model:
        prompt = make_prompt(model.url)
        service = ml.llm.PromptService("reply_api", prompt=prompt, capture=capture, otlp_endpoint=endpoint)
        stores = dict.fromkeys(["registry", "artifacts", "online"], str(tmp_path / "unused"))
        spec = ServiceSpec("reply_api", "reply", str(tmp_path), **stores, kind="prompt", settings=encode_settings(service))
        spec.folder.path.mkdir(parents=True)
        app, _, close = open_prompt_app(spec, spec.folder, Metrics(spec.folder.metrics, 0), 0)
        app.model = ServedPrompt(prompt, TargetVersion(1, ml.llm.hash_prompt(prompt), "artifact"))
        with run_server(app) as url:
            try:
                yield Exporting(url, spec, close)
            finally:
                close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch) -> None:
    monkeypatch.setattr(span_exporter, "_INTERVAL", 0.05)
    monkeypatch.setattr(span_exporter, "_FIRST_PAUSE", 0.01)


def read_attributes(span) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


def test_a_collector_receives_each_span_of_the_log_also_after_a_refusal(tmp_path) -> None:
    with Collector(refuse(503, retry_after="0"), refuse(429)) as collector, exporting(tmp_path, collector.endpoint) as service:
        assert service.ask() == [200] * CALLS
        service.wait_for("exported_spans", 2 * CALLS)
        assert service.count("unexported_spans") == 0
        sent = [span.span_id.hex() for span in collector.spans]
        assert (len(sent), set(sent)) == (2 * CALLS, service.logged)
    texts = {read_attributes(span)["mlops.input"] for span in collector.spans if not span.parent_span_id}
    assert len(texts) == 1
    assert "Is JFK late? [e-mail address]" in texts.pop()


def test_texts_are_not_sent_unless_the_service_captures_them(tmp_path) -> None:
    with Collector() as collector, exporting(tmp_path, collector.endpoint, capture=False) as service:
        service.ask()
        service.wait_for("exported_spans", 2 * CALLS)
    assert not any({"mlops.input", "mlops.output"} & set(read_attributes(span)) for span in collector.spans)


def test_a_collector_that_is_down_costs_no_answer(tmp_path, capfd) -> None:
    with Collector() as gone:
        endpoint = gone.endpoint
    with exporting(tmp_path, endpoint) as service:
        assert service.ask() == [200] * CALLS
        service.wait_for("unexported_spans", 2 * CALLS)
        assert (service.count("exported_spans"), len(service.logged)) == (0, 2 * CALLS)
    assert capfd.readouterr().err.count("were not sent") == 1


def test_a_collector_that_hangs_costs_no_answer_and_bounds_the_end(tmp_path, monkeypatch) -> None:
    with Collector(default=hang) as collector, exporting(tmp_path, collector.endpoint) as service:
        began = time.monotonic()
        assert service.ask() == [200] * CALLS
        assert time.monotonic() - began < span_exporter._TIMEOUT
        assert service.end() < span_exporter._FLUSH_SECONDS + 5
        assert (service.count("exported_spans"), service.count("unexported_spans")) == (0, 2 * CALLS)
        assert len(service.logged) == 2 * CALLS
