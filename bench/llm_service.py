"""What a service of a prompt adds to a call of a model: with trace, budget, rate limits and redaction, against httpx straight to the endpoint."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import polars as pl

import mlops_assets as ml
from bench.harness import BIN, ROOT, alternate, environment, scratch
from bench.harness import versions as installed
from bench.report import Comparison, Facts, Report
from mlops_assets.compute.llm_evaluation.price_rows import read_prices
from mlops_assets.orchestrate.serving.service import build_service_spec
from mlops_assets.serving.formats.stored_prompts import store_prompt
from mlops_assets.serving.http import control
from mlops_assets.serving.logs.trace_log import read_traces
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.llm.budget_ledger import BudgetLedger
from mlops_assets.stores.registry.records import CandidateRecord
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from mlops_assets.serving.http.service_folder import ServiceSpec

OURS, DIRECT = "our service", "httpx to the endpoint"
CALLS, WARM, TARGET = 300, 5, 0.002  # calls in a round; seconds that a call may take longer
VARIABLES = {"question": "Which airport is the latest?", "context": "EWR 15 minutes, JFK 9 minutes, LGA 6 minutes; ask ada@example.org."}
FAIR = [
    "The same messages go to the same endpoint, a process that replies at once. One client on a kept connection, one call after the other; a figure is the median call of a round.",
    "The service has one worker. It writes a trace before each reply, reserves and settles a budget of tokens and dollars, limits requests and tokens a minute, and redacts.",
]


@ml.llm.prompt(model=ml.llm.LLM("instant", base_url="http://127.0.0.1:9/v1"))
def answer_question(question: str, context: str) -> None:
    """Answer the question from the context alone."""


@ml.dataset(key="model")
def model_prices() -> pl.DataFrame:
    """The price of the model."""
    return pl.DataFrame({"model": ["instant"], "valid_from": [date(2026, 1, 1)], "input_price": [1.0], "output_price": [2.0]})


def run(*, full: bool) -> Report:
    """Run the whole benchmark."""
    with run_endpoint() as url, _run_service(url) as (address, spec), httpx.Client(timeout=60) as client:
        body = {"model": "instant", "messages": [message.as_json() for message in ml.llm.build_messages(answer_question, VARIABLES)]}
        contenders = {
            OURS: _repeat(client, f"{address}/answer", VARIABLES),
            DIRECT: _repeat(client, f"{url}/chat/completions", body),
        }
        samples = alternate(contenders, rounds=20 if full else 9, warm=WARM)
        facts = _count(spec, (len(samples[OURS].seconds) + WARM) * CALLS)
    added = median(ours - direct for ours, direct in zip(samples[OURS].seconds, samples[DIRECT].seconds, strict=True))
    if added > TARGET:
        facts.wrong.append(f"a call takes {added * 1000:.2f} ms longer, the target is {TARGET * 1000:.0f} ms")
    facts.rows = [("added to a call, ms", f"{added * 1000:.2f}"), *facts.rows]
    table = Comparison("One call of a prompt", OURS, {"a call": samples}, FAIR)
    return Report("llm_service", "The service of a prompt", [table, facts], installed(BIN / "python", "mlops_assets", "httpx", "uvicorn"))


def _repeat(client: httpx.Client, url: str, body: Any) -> Callable[[], float]:
    def call() -> float:
        seconds = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            client.post(url, json=body).raise_for_status()
            seconds.append(time.perf_counter() - begun)
        return median(seconds)

    return call


def _count(spec: ServiceSpec, calls: int) -> Facts:
    """Compare traces and spending with the number of calls."""
    spans = [span for spans in read_traces(spec.folder.traces, date.min, date.max).values() for span in spans]
    roots = sum(span.parent_id is None for span in spans)
    spent = BudgetLedger(spec.folder.ledger).read_spending(datetime.now(UTC).date().isoformat())
    wrong = [] if roots == spent.requests == calls and spent.tokens == 41 * calls else ["a call was not traced or not counted"]
    rows = [("calls", calls), ("traces", roots), ("requests in the ledger", spent.requests), ("tokens in the ledger", spent.tokens)]
    return Facts("Of these calls", ("", "count"), rows, ["A reply reports 41 tokens."], wrong)


@contextlib.contextmanager
def run_endpoint(seconds: float = 0.0) -> Iterator[str]:
    """Yield the URL of an endpoint that answers after some seconds."""
    command = [str(BIN / "python"), "-m", "bench.projects.chat_endpoint", str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.contextmanager
def _run_service(url: str) -> Iterator[tuple[str, ServiceSpec]]:
    """Store, register and promote the prompt, and run its service."""
    platform = Platform.at(scratch("llm_service"))
    prompt = ml.llm.prompt(model=ml.llm.LLM("instant", base_url=url, retries=0))(answer_question.function)
    registry, artifact = open_registry(platform.registry), store_prompt(open_artifacts(platform.artifacts), prompt)
    record = CandidateRecord(prompt.name, ml.llm.hash_prompt(prompt), "run", artifact, 1, datetime.now(UTC))
    registry.submit(record, [])
    registry.promote(prompt.name, {}, actor="bench", reason="bench", version=registry.register(prompt.name, {}).version)
    service = ml.llm.PromptService(
        "bench_api",
        prompt=prompt,
        workers=1,
        budget=ml.llm.Budget(usd_per_day=1e6, tokens_per_day=10**12),
        rate_limits=ml.llm.RateLimits(requests_per_minute=10**6, tokens_per_minute=10**12),
        prices=model_prices,
    )
    spec = build_service_spec(service, platform, read_prices(model_prices.function.function(), model_prices.key))
    try:
        yield str(control.start(spec).url), spec
    finally:
        control.stop(spec.home, spec.name)
