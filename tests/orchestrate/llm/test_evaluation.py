"""An evaluation as an asset: every case is asked once, a failure is never a score, and what is answered is not asked again."""

from datetime import date, timedelta
from enum import Enum

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.llm import evaluation_step, progress
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata, records
from tests.orchestrate.llm.replies import ROWS, TABLE, declare, is_short
from tests.serving.llm.scripted_server import (
    ScriptedServer,
    answer,
    cut_json,
    fail,
    hang_up_in_the_middle,
    meet,
    send_html,
    send_latin1,
    stay_silent,
)


def table(platform) -> pl.DataFrame:
    return open_stores(platform).lake.read(TABLE).sort("case")


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {found.check_name: found for found in result.get_asset_check_evaluations() if found.asset_key.path[0] == "evaluation"}


def test_every_case_is_a_row_with_its_answer_its_scores_and_its_tokens(platform, run) -> None:
    with ScriptedServer() as server:
        result = run(ml.build_definitions(declare(server.url), platform=platform))()
    found = table(platform)
    assert found["case"].to_list() == ROWS["case"]
    assert found["answer"].to_list() == ["yes"] * 6
    assert found["exact_match"].to_list() == [1.0] * 4 + [0.0] * 2
    assert found["is_short"].to_list() == [1.0] * 4 + [0.0] * 2
    assert found.select("error", "model", "cached", "input_tokens", "output_tokens").unique().rows() == [(None, "tiny", False, 7, 3)]
    assert found["airline"].to_list() == ROWS["airline"]
    facts = metadata(result, TABLE)
    assert (facts["cases"], facts["error rate"], facts["requests"], facts["cached answers"]) == (6, 0.0, 6, 0)
    assert (facts["input tokens"], facts["output tokens"], facts["mean exact_match"]) == (42, 18, pytest.approx(2 / 3))
    assert [record.data["95 % CI"] for record in facts["scores"].records] == ["0.300 to 0.903 (Wilson)"] * 2
    assert facts["summary"] == "6 cases, 0 with an error; exact_match 0.667; is_short 0.667; 6 requests, 0 cached answers"
    described = {column.name: column.description for column in facts["dagster/column_schema"].columns}
    assert described["error"] == "Why the answer or a score is missing; null when nothing is."
    assert {name: check.passed for name, check in checks(result).items()} == {"key": True, "complete": True, "token_counts": True}


def test_scores_are_reported_for_each_slice(platform, run) -> None:
    rows = ROWS | {"origin": ["JFK", None, "JFK", "EWR", "EWR", "EWR"]}
    with ScriptedServer(answer("yes"), fail(400)) as server:
        result = run(ml.build_definitions(declare(server.url, rows, slices=["airline", "origin"]), platform=platform))(ok=False)
    facts = metadata(result, TABLE)
    airlines = [
        (r.data["airline"], r.data["cases"], r.data["errors"], r.data["exact_match"][:5]) for r in facts["scores by airline"].records
    ]
    assert airlines == [("AA", "3", "1", "1.000"), ("UA", "3", "0", "0.333")]
    assert [record.data["origin"] for record in facts["scores by origin"].records] == ["EWR", "JFK", "None"]


def test_an_unchanged_evaluation_asks_nothing_and_keeps_its_hash(platform, run) -> None:
    with ScriptedServer() as server:
        materialise = run(ml.build_definitions(declare(server.url), platform=platform))
        materialise()
        before = records(platform, TABLE)
        result = materialise()
        assert len(server.requests) == 6
    assert records(platform, TABLE) == before
    assert table(platform)["cached"].to_list() == [False] * 6, "equal rows are not written again, so that the first latencies stay"
    facts = metadata(result, TABLE)
    assert (facts["requests"], facts["cached answers"], facts["input tokens"]) == (0, 6, 42)


def test_a_changed_instruction_is_another_version_whose_cases_are_all_asked(platform, run) -> None:
    with ScriptedServer() as server:
        first = declare(server.url)
        run(ml.build_definitions(first, platform=platform))()
        before, hashes = table(platform), records(platform, TABLE)
        second = declare(server.url, instructions="Answer in one word.")
        run(ml.build_definitions(second, platform=platform))("evaluation/replies")
        assert len(server.requests) == 12
    assert before["prompt_version"].unique().to_list() == [ml.llm.hash_prompt(first[1])]
    assert set(table(platform)["prompt_version"]) - set(before["prompt_version"]) == {ml.llm.hash_prompt(second[1])}
    assert records(platform, TABLE) != hashes


FAULTS = {
    "429": (fail(429), "status 429"),
    "500": (fail(500), "status 500"),
    "silence": (stay_silent(), "gave no whole reply within"),
    "truncated": (cut_json(), "incomplete or invalid JSON"),
    "not UTF-8": (send_latin1(), "not UTF-8"),
    "HTML": (send_html(), "text/html"),
    "hang-up": (hang_up_in_the_middle(), "closed the connection"),
    "no text": (answer(""), "sent no text"),
    "no finish reason": (answer(finish_reason=None), "without finish_reason"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_call_is_an_error_without_a_score_and_the_evaluation_is_incomplete(fault, platform, run, monkeypatch) -> None:
    step, problem = FAULTS[fault]
    monkeypatch.setenv("TINY_KEY", "secret-key")
    with ScriptedServer(answer("yes"), step) as server:
        more = {"timeout": timedelta(seconds=0.3)} if fault == "silence" else {}
        materialise = run(ml.build_definitions(declare(server.url, api_key_env="TINY_KEY", **more), platform=platform))
        result = materialise(ok=False)
        failed = table(platform).row(1, named=True)
        assert failed["error"].startswith("ProviderError: the language model 'tiny' at http://127.0.0.1")
        assert problem in failed["error"]
        assert "secret-key" not in failed["error"]
        assert "Question 1" not in failed["error"]
        assert [failed[name] for name in ("answer", "exact_match", "is_short", "input_tokens")] == [None] * 4
        assert table(platform)["error"].null_count() == 5
        complete = checks(result)["complete"]
        assert (complete.passed, complete.severity, complete.blocking) == (False, dg.AssetCheckSeverity.ERROR, True)
        assert "1 of 6 cases have an error (16.7%, maximum 0.0%): case 'case 1': ProviderError" in complete.description
        facts = metadata(result, TABLE)
        assert (facts["error rate"], facts["mean exact_match"]) == (pytest.approx(1 / 6), pytest.approx(3 / 5))
        again = materialise()  # only the failed case is asked again
        assert len(server.requests) == 7
    assert checks(again)["complete"].passed
    assert table(platform)["exact_match"].to_list() == [1.0] * 4 + [0.0] * 2


def test_errors_up_to_the_declared_rate_pass(platform, run) -> None:
    with ScriptedServer(fail(400)) as server:
        result = run(ml.build_definitions(declare(server.url, max_error_rate=0.2), platform=platform))()
    assert checks(result)["complete"].passed


def test_an_answer_without_token_counts_is_scored_and_its_cost_is_unknown(platform, run) -> None:
    with ScriptedServer(answer("yes", usage=None)) as server:
        result = run(ml.build_definitions(declare(server.url), platform=platform))()
    assert table(platform).row(0, named=True) | {"seconds": 0} == table(platform).row(0, named=True) | {"seconds": 0, "input_tokens": None}
    assert table(platform)["exact_match"].null_count() == 0
    found = checks(result)["token_counts"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "did not report the tokens of 1 answer(s)" in found.description


def test_an_answer_of_another_type_is_an_error_that_keeps_answer_and_tokens(platform, run) -> None:
    with ScriptedServer(answer('{"late": true}'), default=answer("[1, 2]")) as server:
        run(ml.build_definitions(declare(server.url, response=list[int], scorers=[ml.llm.RegexMatch("1")]), platform=platform))(ok=False)
    first, second = table(platform).head(2).rows(named=True)
    assert "is not of the declared type" in first["error"]
    assert (first["answer"], first["regex_match"], first["input_tokens"]) == ('{"late": true}', None, 7)
    assert (second["error"], second["answer"], second["regex_match"]) == (None, "[1, 2]", 1.0)


@ml.llm.scorer
def raises_once(answer: str, case: str) -> float:
    if case == "case 2":
        raise KeyError(answer + " is private")
    return 1.0


@ml.llm.scorer
def is_unsure(answer: str, case: str) -> float:
    return {"case 0": float("nan"), "case 1": 1.5, "case 3": None, "case 4": "1"}.get(case, True)


def test_a_scorer_that_raises_is_an_error_that_names_case_and_scorer(platform, run) -> None:
    with ScriptedServer() as server:
        result = run(ml.build_definitions(declare(server.url, scorers=[ml.llm.ExactMatch("expected"), raises_once]), platform=platform))(
            ok=False
        )
    failed = table(platform).row(2, named=True)
    assert failed["error"].startswith("scorer 'raises_once': raised KeyError (")
    assert "test_evaluation.py" in failed["error"]
    assert "private" not in failed["error"]
    assert (failed["answer"], failed["exact_match"], failed["raises_once"]) == ("yes", 1.0, None)
    assert "case 'case 2': scorer 'raises_once': raised KeyError" in checks(result)["complete"].description


def test_a_score_that_is_no_number_from_0_to_1_is_an_error(platform, run) -> None:
    with ScriptedServer() as server:
        result = run(ml.build_definitions(declare(server.url, scorers=[is_unsure]), platform=platform))(ok=False)
    found = table(platform)
    assert found["is_unsure"].to_list() == [None, None, 1.0, None, None, 1.0]
    problems = ["nan", "1.5", None, "NoneType", "str", None]
    assert found["error"].to_list() == [p and f"scorer 'is_unsure': returned {p}, not a number from 0 to 1" for p in problems]
    assert "4 of 6 cases have an error" in checks(result)["complete"].description
    (score,) = metadata(result, TABLE)["scores"].records
    assert (score.data["n"], score.data["missing"], score.data["mean"]) == ("2", "4", "1.000")


def test_a_case_without_the_expected_text_is_an_error_of_its_scorers(platform, run) -> None:
    rows = ROWS | {"expected": [None, *ROWS["expected"][1:]]}
    with ScriptedServer() as server:
        run(ml.build_definitions(declare(server.url, rows), platform=platform))(ok=False)
    first = table(platform).row(0, named=True)
    assert first["error"] == "scorer 'exact_match': the case has no expected text; scorer 'is_short': the case has no 'expected'"
    assert (first["exact_match"], first["is_short"]) == (None, None)


def test_a_column_that_nothing_reads_is_reported_and_an_optional_variable_is_read(platform, run) -> None:
    rows = ROWS | {"annotator": ["Ann"] * 6, "sentences": list(range(6))}
    with ScriptedServer() as server:
        result = run(ml.build_definitions(declare(server.url, rows, slices=[]), platform=platform))()
        sent = [request.body["messages"][-1]["content"] for request in server.requests]
    assert "<sentences>\n5\n</sentences>" in sent[5]
    assert set(metadata(result, TABLE)["unused columns"].split(", ")) == {"airline", "annotator"}


def test_every_built_in_scorer_scores(platform, run) -> None:
    rows = {
        "case": ["a"],
        "question": ["?"],
        "context": ["JFK: 15 minutes late."],
        "expected": ["15 minutes"],
        "found": [["x", "y"]],
        "right": [["y"]],
    }
    scorers = [
        ml.llm.ExactMatch("expected"),
        ml.llm.TokenF1("expected"),
        ml.llm.EditSimilarity("expected"),
        ml.llm.RegexMatch(r"\d+"),
        ml.llm.JsonSchemaMatch({"type": "object"}),
        ml.llm.RetrievalHit("found", "right"),
        ml.llm.RetrievalHit("found", "right", top=1, name="first_hit"),
        ml.llm.Groundedness("context", embeddings=False),
    ]
    with ScriptedServer(answer("15 minutes")) as server:
        result = run(ml.build_definitions(declare(server.url, rows, scorers=scorers, slices=[]), platform=platform))()
    row = table(platform).row(0, named=True)
    assert row["error"] is None
    assert [row[scorer.name] for scorer in scorers] == [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, pytest.approx(1.0, abs=0.5)]
    assert [record.data["method"] for record in metadata(result, TABLE)["scores"].records][-1] == "rules only"


BAD_ROWS = {
    "missing": (
        {"context": None},
        "needs the column 'context' for the variable 'context' of 'prompt/reply', which 'dataset/questions' lacks",
    ),
    "not scored": ({"expected": None}, "needs the column 'expected' for the scorer 'is_short'"),
    "misspelt": ({"sentence": [2] * 6}, "'dataset/questions' has the column 'sentence', which is not a variable of 'prompt/reply'"),
    "null": ({"question": ["a", None, *"cdef"]}, "case 'case 1': column 'question' is null"),
    "other type": ({"question": list(range(6))}, "case 'case 0': 'prompt/reply', variable 'question': Input should be a valid string"),
    "number expected": (
        {"expected": list(range(6))},
        "column 'expected' of 'dataset/questions' is Int64, the scorer 'exact_match' reads text",
    ),
    "empty": ({name: [] for name in ROWS}, "'dataset/questions' has no row"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_wrong_cases_are_refused_before_the_first_request(name, platform, run) -> None:
    change, problem = BAD_ROWS[name]
    rows = {column: values for column, values in (ROWS | change).items() if values is not None}
    with ScriptedServer() as server:
        message = run(ml.build_definitions(declare(server.url, rows), platform=platform)).error()
        assert server.requests == []
    assert problem in message
    assert TABLE not in open_stores(platform).lake.tables()


def return_questions() -> pl.DataFrame:
    return pl.DataFrame(ROWS)


def test_a_declared_schema_is_checked_when_the_project_is_built(platform) -> None:
    import pandera.polars as pa

    class Questions(pa.DataFrameModel):
        case: str
        question: str
        expected: str
        airline: str

    with ScriptedServer() as server:
        _, prompt, _ = declare(server.url)
    questions = ml.dataset(key="case", schema=Questions)(return_questions)
    evaluation = ml.llm.PromptEvaluation("replies", prompt=prompt, cases=questions, scorers=[is_short])
    with pytest.raises(DefinitionError, match="'evaluation/replies' needs the column 'context' for the variable"):
        ml.build_definitions([questions, prompt, evaluation], platform=platform)


def test_an_evaluation_without_its_dataset_in_the_project_is_refused(platform) -> None:
    with ScriptedServer() as server:
        _, prompt, evaluation = declare(server.url)
    with pytest.raises(
        DefinitionError, match="'evaluation/replies' refers to the dataset 'dataset/questions', which is not in the project"
    ):
        ml.build_definitions([prompt, evaluation], platform=platform)
    with pytest.raises(DefinitionError, match="'evaluation/replies' refers to the prompt 'prompt/reply', which is not in the project"):
        ml.build_definitions([evaluation.cases, evaluation], platform=platform)


def test_a_missing_key_fails_the_step_because_no_case_can_be_answered(platform, run, monkeypatch) -> None:
    monkeypatch.delenv("TINY_KEY", raising=False)
    with ScriptedServer() as server:
        message = run(ml.build_definitions(declare(server.url, api_key_env="TINY_KEY"), platform=platform)).error()
    assert "the environment variable TINY_KEY is not set" in message
    assert TABLE not in open_stores(platform).lake.tables()


def test_as_many_requests_are_in_flight_as_the_model_allows(platform, run) -> None:
    rows = {name: values * 2 for name, values in ROWS.items()} | {"case": [str(number) for number in range(12)]}
    with ScriptedServer(default=meet(3)) as server:
        result = run(ml.build_definitions(declare(server.url, rows, concurrency=3), platform=platform))()
        assert server.peak == 3
    assert checks(result)["complete"].passed


def test_progress_is_logged_with_errors_requests_and_tokens(platform, run, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PROGRESS_CALLS", 4)
    lines: list[str] = []
    monkeypatch.setattr(evaluation_step, "CallProgress", lambda key, total, _log, **_: progress.CallProgress(key, total, lines.append))
    with ScriptedServer(fail(400)) as server:
        run(ml.build_definitions(declare(server.url), platform=platform))(ok=False)
    assert lines == [
        "evaluation/replies: 4 of 6 cases, 1 with an error; 4 requests, 21 input and 9 output tokens so far",
        "evaluation/replies: 6 of 6 cases, 1 with an error; 6 requests, 35 input and 15 output tokens so far",
    ]


class Tone(Enum):
    PLAIN = "plain"
    FORMAL = "formal"


def reply_in_tone(question: str, tone: Tone, day: date, notes: list[str] | None) -> str:
    if question == "Question 3?":
        raise ZeroDivisionError
    return f"{question} {tone.name} {day:%d %b} {notes}"


def test_values_of_the_lake_become_the_declared_types(platform, run) -> None:
    rows = {"case": ["a", "b"], "question": ["x", "y"], "tone": ["plain", "formal"], "day": [date(2024, 5, 1)] * 2, "notes": [["n"], None]}
    with ScriptedServer() as server:
        more = {"function": reply_in_tone, "scorers": [ml.llm.RegexMatch("yes")], "slices": []}
        run(ml.build_definitions(declare(server.url, rows, **more), platform=platform))()
        assert [request.body["messages"][-1]["content"] for request in server.requests] == ["x PLAIN 01 May ['n']", "y FORMAL 01 May None"]
        wrong = run(ml.build_definitions(declare(server.url, rows | {"tone": ["plain", "rude"]}, **more), platform=platform)).error()
        assert len(server.requests) == 2
    assert "case 'b': 'prompt/reply_in_tone', variable 'tone'" in wrong


def test_an_error_in_the_body_of_a_prompt_names_the_case(platform, run) -> None:
    rows = {"case": ROWS["case"], "question": ROWS["question"], "tone": ["plain"] * 6, "day": [date(2024, 5, 1)] * 6, "notes": [["n"]] * 6}
    with ScriptedServer() as server:
        items = declare(server.url, rows, function=reply_in_tone, scorers=[ml.llm.RegexMatch("yes")], slices=[])
        result = run(ml.build_definitions(items, platform=platform))(ok=False)
        assert server.requests == []
    failure = next(event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE)
    assert "'evaluation/replies', case 'case 3'" in failure.step_failure_data.error.to_string()


def test_another_asset_reads_an_evaluation_by_name_and_stays_fresh(platform, run) -> None:
    @ml.dataset(key="case")
    def wrong_replies(replies: pl.DataFrame) -> pl.DataFrame:
        return replies.filter(pl.col("exact_match") == 0).select("case")

    with ScriptedServer() as server:
        materialise = run(ml.build_definitions([*declare(server.url), wrong_replies], platform=platform))
        materialise()
        materialise("evaluation/replies")
        node = compiled_projects()[-1].project.node(wrong_replies)
    assert open_stores(platform).lake.read("dataset/wrong_replies").height == 2
    assert find_stale(node, platform) == {}


def test_an_evaluation_is_stale_when_prompt_or_scorers_change(platform, run) -> None:
    with ScriptedServer() as server:
        first = declare(server.url)
        materialise = run(ml.build_definitions(first, platform=platform))
        materialise()
        same, reworded, rescored = (
            Project.from_items(items).node(items[-1])
            for items in (
                declare(server.url),
                declare(server.url, instructions="Answer in one word."),
                declare(server.url, scorers=[is_short]),
            )
        )
    assert find_stale(same, platform) == {}
    assert list(find_stale(reworded, platform)) == list(find_stale(rescored, platform)) == [""]


def test_the_node_has_a_label_and_a_kind_of_its_own_and_follows_its_dataset(platform) -> None:
    with ScriptedServer() as server:
        definitions = ml.build_definitions(declare(server.url, owners=["team:data"]), platform=platform)
    (spec,) = [spec for spec in definitions.resolve_all_asset_specs() if spec.key.path[0] == "evaluation"]
    assert spec.key.path == ["evaluation", "replies_evaluation"]
    assert [dep.asset_key.to_user_string() for dep in spec.deps] == ["prompt/reply_prompt", "dataset/questions"]
    assert (spec.kinds, spec.group_name, list(spec.owners)) == ({"llm", "duckdb"}, "reply", ["team:data"])


DAYS = dg.DailyPartitionsDefinition("2024-05-01", end_date="2024-05-04")


@ml.dataset(key="case", partitions=DAYS, event_timestamp="asked_at")
def daily_questions(window: ml.TimeWindow) -> pl.DataFrame:
    days = [f"{window.start:%d}"] * 2
    return pl.DataFrame(
        {
            "case": [f"{day}-{number}" for number, day in enumerate(days)],
            "question": [f"{days[0]} a", f"{days[0]} b"],
            "asked_at": window.start,
        }
    )


def reply_daily(question: str) -> None:
    """Answer the question."""


def test_cases_of_every_partition_are_evaluated_together_and_new_ones_alone_are_asked(platform, run) -> None:
    with ScriptedServer() as server:
        prompt = ml.llm.prompt(model=ml.llm.LLM("tiny", base_url=server.url, concurrency=1))(reply_daily)
        evaluation = ml.llm.PromptEvaluation("replies", prompt=prompt, cases=daily_questions, scorers=[ml.llm.RegexMatch("yes")])
        materialise = run(ml.build_definitions([daily_questions, prompt, evaluation], platform=platform))
        materialise("dataset/daily_questions", partitions="2024-05-01...2024-05-02")
        materialise(TABLE)
        assert table(platform)["case"].to_list() == ["01-0", "01-1", "02-0", "02-1"]
        materialise("dataset/daily_questions", partitions="2024-05-03")
        assert list(find_stale(compiled_projects()[-1].project.node(evaluation), platform)) == [""]
        result = materialise(TABLE)
    assert table(platform)["case"].to_list()[-2:] == ["03-0", "03-1"]
    assert metadata(result, TABLE)["cases"] == 6
    assert metadata(result, TABLE)["requests"] == 2
