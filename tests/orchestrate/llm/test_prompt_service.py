"""The service of a prompt as an asset: from the dataset of cases to a running service and the table of its traces."""

import json
import sys
from datetime import UTC, date, datetime

import dagster as dg
import httpx
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.main import mlops
from mlops_assets.errors import DefinitionError, MissingExtraError
from mlops_assets.orchestrate.compiler.extras import find_missing_packages, refuse_missing_packages
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.serving.http import control
from mlops_assets.serving.logs.trace_log import read_traces
from tests.orchestrate.llm.replies import ROWS, declare
from tests.serving.llm.collector import Collector
from tests.serving.llm.scripted_server import ScriptedServer
from tests.serving.support import processes_of, wait_for

PROJECT = '''
from datetime import date

import polars as pl
import mlops_assets as ml

@ml.dataset(key="case")
def questions() -> pl.DataFrame:
    return pl.DataFrame({rows!r})

@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url={url!r}, retries=0, max_tokens=20))
def reply(question: str, context: str) -> None:
    """{instructions}"""

replies = ml.llm.PromptEvaluation(
    "replies", prompt=reply, cases=questions, scorers=[ml.llm.ExactMatch("expected")], gates=[ml.Gate("exact_match", at_least=0.6)]
)
@ml.dataset(key="model")
def model_prices() -> pl.DataFrame:
    return pl.DataFrame({{"model": [{priced!r}], "valid_from": [date(2026, 1, 1)], "input_price": [1.0], "output_price": [2.0]}})

reply_api = ml.llm.PromptService(
    "reply_api", prompt=reply, workers=1, prices=model_prices, budget=ml.llm.Budget(usd_per_day=1.0), otlp_endpoint={collector!r}
)
defs = ml.build_definitions([questions, reply, replies, model_prices, reply_api])
'''
TRACES = "traces/reply_api_traces"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return a function that runs a command in the folder of the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(mlops, list(words))
        assert result.exit_code == code, result.output + str(result.exception)
        return result.output

    yield run
    control.stop(str(tmp_path / "home"), "reply_api", timeout=5)
    assert processes_of(tmp_path / "home" / "services" / "reply_api") == []


def list_logged(home) -> list[str]:
    days = read_traces(home / "services/reply_api/traces", date.min, date.max)
    return sorted(span.span_id for spans in days.values() for span in spans)


def ask_with_a_key(call, definitions, monkeypatch) -> None:
    """Let the service need API keys, and ask it without one, with a missing one and with a valid one."""
    monkeypatch.setenv("REPLY_KEYS", "ada:key-of-ada")
    monkeypatch.setenv("ADAS_KEY", "key-of-ada")
    definitions.write_text(definitions.read_text().replace('"reply_api", ', '"reply_api", keys_env="REPLY_KEYS", '))
    call("serve", "start", "reply_api")
    refused = CliRunner().invoke(mlops, ["llm", "ask", "reply_api", "--cases", "questions"])
    assert "'service/reply_api' needs an API key" in str(refused.exception)
    refused = CliRunner().invoke(mlops, ["llm", "ask", "reply_api", "--cases", "questions", "--key-env", "BOBS_KEY"])
    assert "the environment variable BOBS_KEY holds no API key" in str(refused.exception)
    assert "6 answers of http" in call("llm", "ask", "reply_api", "--cases", "questions", "--key-env", "ADAS_KEY")


def test_a_prompt_is_served_followed_through_promotions_and_traced(call, tmp_path, monkeypatch) -> None:
    def write(instructions: str, priced: str = "tiny") -> None:
        (tmp_path / "definitions.py").write_text(
            PROJECT.format(rows=ROWS, url=server.url, instructions=instructions, priced=priced, collector=collector.endpoint)
        )

    def ask() -> dict:
        reply = httpx.post(f"{state()['url']}/answer", json={"question": "Is it late?", "context": "JFK"}, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def state() -> dict:
        return json.loads(call("serve", "status", "reply_api", "--json", "-"))[0]

    def versions() -> set[int]:
        return {worker["version"] for worker in state()["workers"]}

    with ScriptedServer() as server, Collector() as collector:
        write("Answer the question.")
        assert (state()["running"], state()["champion"]) == (False, None)
        result = CliRunner().invoke(mlops, ["serve", "start", "reply_api"])
        assert "the lake has no table 'dataset/model_prices'" in str(result.exception)
        run_all = ("run", "--select", "not key:traces/*")
        write("Answer the question.", priced="large")
        assert "failed" in call(*run_all, code=1)
        refused = CliRunner().invoke(mlops, ["serve", "start", "reply_api"])
        assert "'dataset/model_prices' has no price of its model 'tiny'" in str(refused.exception)
        write("Answer the question.")
        call(*run_all)
        assert (state()["running"], versions()) == (True, {1})
        answered = ask()
        assert answered["cost"] == pytest.approx(13e-6)
        write("Answer the question in one word.")
        call(*run_all)
        assert (versions(), ask()["version"]) == ({2}, 2)
        call("prompts", "rollback", "reply", "--reason", "worse")
        wait_for(lambda: versions() == {1})
        assert ask()["version"] == 1
        httpx.post(f"{state()['url']}/feedback", json={"trace_id": answered["trace_id"], "score": 0.5}).raise_for_status()
        call("run", "--select", f"key:{TRACES}", "--partitions", datetime.now(UTC).date().isoformat())
        assert "service" in call("doctor")
        checks = {(row["check"], row["state"]) for row in json.loads(call("doctor", "--json", "-"))}
        assert ("services", "ok") in checks
        assert ("services", "failure") not in checks
        assert any(row["table"] == "traces/reply_api" and row["rows"] == 6 for row in json.loads(call("status", "--json", "-"))["tables"])
        refused = CliRunner().invoke(mlops, ["predict", "reply_api", "--partitions", "a"])
        assert "serves a prompt and predicts no rows" in str(refused.exception)
        asked = call("llm", "ask", "reply_api", "--cases", "questions")
        assert asked.startswith("Question 0?  yes\n")
        assert all(text in asked for text in ("6 answers of http", "(6 by version 1)"))
        refused = CliRunner().invoke(mlops, ["llm", "ask", "reply_api", "--cases", "model_prices"])
        assert "has no column 'question', a variable of 'prompt/reply'" in str(refused.exception)
        assert "stopped" in call("serve", "stop", "reply_api")
        refused = CliRunner().invoke(mlops, ["llm", "ask", "reply_api", "--cases", "questions"])
        assert "'service/reply_api' does not run" in str(refused.exception)
        assert state()["wanted"] == "stopped"
        assert sorted(span.span_id.hex() for span in collector.spans) == list_logged(tmp_path / "home")
        assert collector.services == {"reply_api"}
        ask_with_a_key(call, tmp_path / "definitions.py", monkeypatch)
        assert "there are reply_api" in str(CliRunner().invoke(mlops, ["serve", "start", "reply_apy"]).exception)


def test_the_lineage_leads_from_the_prompt_to_the_traces(platform) -> None:
    questions, prompt, evaluation = declare("http://127.0.0.1:9/v1")
    service = ml.llm.PromptService("reply_api", prompt=prompt)
    definitions = ml.build_definitions([questions, prompt, evaluation, service], platform=platform)
    graph = definitions.resolve_asset_graph()
    key = asset_key("service/reply_api")
    assert graph.get(key).parent_keys == {asset_key("champion/reply")}
    assert (graph.get(key).group_name, graph.get(key).kinds) == ("reply", {"service", "llm"})
    assert graph.get(dg.AssetKey(TRACES.split("/"))).parent_keys == {key}
    assert any(sensor.name == "mlops_services" for sensor in definitions.sensors)


def test_a_service_whose_prompt_can_have_no_version_is_refused(platform) -> None:
    questions, prompt, evaluation = declare("http://127.0.0.1:9/v1")
    service = ml.llm.PromptService("reply_api", prompt=prompt)
    with pytest.raises(DefinitionError, match="'service/reply_api' serves 'prompt/reply', which has no evaluation"):
        ml.build_definitions([questions, prompt, service], platform=platform)
    with pytest.raises(DefinitionError, match="two items of the project have the key 'service/reply_api'"):
        ml.build_definitions([questions, prompt, evaluation, service, service], platform=platform)
    with pytest.raises(DefinitionError, match="'service/reply_api' refers to the prompt 'prompt/reply', which is not in the project"):
        ml.build_definitions([questions, service], platform=platform)


def test_a_service_that_exports_needs_the_extra(platform, monkeypatch) -> None:
    questions, prompt, evaluation = declare("http://127.0.0.1:9/v1")
    project = Project.from_items(
        [questions, prompt, evaluation, ml.llm.PromptService("reply_api", prompt=prompt, otlp_endpoint="http://127.0.0.1:4318")]
    )
    monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
    with pytest.raises(MissingExtraError, match="otlp_endpoint of 'service/reply_api' needs opentelemetry") as caught:
        refuse_missing_packages(find_missing_packages(project, platform))
    assert caught.value.hint == "pip install 'mlops_assets[otlp]'"
