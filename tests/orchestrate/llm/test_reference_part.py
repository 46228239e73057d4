"""The LLM part of the reference project: its graph, its facts against plain polars, and its answers by a scripted model."""

import importlib.util
import sys
from itertools import pairwise

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import ROOT
from tests.serving.llm.scripted_server import Exchange, ScriptedServer, answer

DATASETS = ("dataset/monthly_delays", "dataset/airport_texts", "dataset/delay_questions", "dataset/labelled_answers")


def copy_facts(exchange: Exchange) -> None:
    """Answer with the last sentence of the facts, or call every statement supported."""
    asked = exchange.seen.body["messages"][-1]["content"]
    if "supported or unsupported?" in asked:
        answer('{"verdict": "supported"}')(exchange)
    else:
        answer("The mean" + asked.rpartition("The mean")[2].partition("\n")[0])(exchange)


@pytest.fixture
def part(monkeypatch, tmp_path):
    """Return a function that imports the module with the model at an address."""
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(ROOT)
    real = ml.llm.LLM

    def load(url: str, prompt: str = "factual"):
        monkeypatch.setenv("DELAY_PROMPT", prompt)
        monkeypatch.setattr(ml.llm, "LLM", lambda model, **more: real(model, base_url=url, retries=0, **more))
        spec = importlib.util.spec_from_file_location("delay_answers", ROOT / "delay_answers.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "delay_answers", module)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_whole_lineage_is_one_graph_with_distinct_labels(part) -> None:
    graph = part("http://127.0.0.1:9/v1").defs.resolve_asset_graph()
    labels = [key.path[-1] for key in graph.get_all_asset_keys()]
    assert len(labels) == len(set(labels))
    above = {key.path[-1]: {parent.path[-1] for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()}
    chain = [
        "delay_answer_prompt", "delay_answers_evaluation", "delay_answer_version", "delay_answer_champion", "delay_answer_api",
        "delay_answer_api_traces", "delay_answer_watch_quality",
    ]  # fmt: skip
    for parent, child in pairwise(chain):
        assert parent in above[child]


def test_facts_are_those_of_the_flights_and_the_judge_may_not_gate(part, run, tmp_path) -> None:
    import flights_data

    with ScriptedServer(default=copy_facts) as server:
        module = part(server.url)
        keys = (*DATASETS, "prompt/delay_answer", "evaluation/delay_answers", "version/delay_answer", "champion/delay_answer")
        result = run(module.defs)(*keys, "prompt/check_support", "calibration/support")
    stores = open_stores(ml.Platform.from_env())
    flights = flights_data.departures(module.FIRST_QUARTER).collect()
    march = flights.filter(pl.col("scheduled_at").dt.convert_time_zone("America/New_York").dt.month() == 3, pl.col("origin") == "JFK")
    row = stores.lake.read("dataset/monthly_delays").row(
        by_predicate=(pl.col("origin") == "JFK") & (pl.col("month") == "March 2013"), named=True
    )
    assert row["mean_delay"] == round(march["arr_delay"].mean(), 1)
    assert row["late_percent"] == round(100 * (march["arr_delay"].drop_nulls() > 15).mean())
    answers = stores.lake.read("evaluation/delay_answers")
    assert answers["exact_match"].to_list() == [1.0] * 9
    assert stores.registry.champion("delay_answer").version == 1
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["may_gate"].passed
    assert "kappa 0.00" in checks["may_gate"].description
