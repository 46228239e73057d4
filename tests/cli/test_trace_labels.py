"""From a bad answer of a running service to a case of the evaluation set, in one command."""

import json
import subprocess
import sys

import polars as pl
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.main import mlops
from tests.commands import run_mlops
from tests.conftest import clean_environment
from tests.serving.llm.scripted_server import ScriptedServer, answer
from tests.serving.prompts.support import make_prompt, serve

PROJECT = """
import mlops_assets as ml
import polars as pl

@ml.dataset(key="case", keep="last")
def questions() -> pl.DataFrame:
    own = pl.DataFrame({{"case": ["own"], "question": ["Is it late?"], "sentences": [1], "expected": ["JFK"], "minutes": [15], "sure": [True]}})
    return pl.concat([own, ml.llm.read_labels("questions")], how="diagonal")

@ml.dataset(key="case")
def plain() -> pl.DataFrame:
    return pl.DataFrame({{"case": ["own"]}})

@ml.dataset(key="case")
def numbered() -> pl.DataFrame:
    labels = ml.llm.read_labels("numbered").with_columns(pl.col("case").cast(pl.Int64))
    return pl.concat([pl.DataFrame({{"case": [1]}}), labels], how="diagonal")

@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url="{url}", retries=0, max_tokens=100))
def reply(question: str, context: str = "", sentences: int = 1) -> None:
    '''Answer the question in {{sentences}} sentences.'''

replies = ml.llm.PromptEvaluation("replies", prompt=reply, cases=questions, scorers=[ml.llm.ExactMatch("expected")])
reply_api = ml.llm.PromptService("reply_api", prompt=reply, capture=True)
bot = ml.llm.TraceSource("bot")
defs = ml.build_definitions([questions, plain, numbered, reply, replies, reply_api, bot])
"""

DATA = 'key:"dataset/questions" or key:"evaluation/replies_evaluation"'


@pytest.fixture
def server():
    with ScriptedServer(default=answer("JFK")) as running:
        yield running


@pytest.fixture
def folder(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "definitions.py").write_text(PROJECT.format(url=server.url))
    return tmp_path


def serve_traces(folder, server, capture: bool = True):
    return serve(folder / "home" / "services" / "reply_api", make_prompt(server.url), capture=capture)


@pytest.fixture
def trace_id(folder, server) -> str:
    """The id of an answer of a running service; the evaluation set has been made."""
    run('key:"dataset/questions"')
    with serve_traces(folder, server) as stand:
        return stand.answer({"question": "Which airport is late?", "sentences": 2}).json()["trace_id"]


def label(*words: str) -> str:
    result = CliRunner().invoke(mlops, ["traces", "label", "reply_api", *words])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def refuse(*words: str) -> str:
    result = CliRunner().invoke(mlops, ["traces", "label", "reply_api", *words])
    assert result.exit_code, result.output
    assert ml.llm.read_labels("questions").is_empty()
    return str(result.exception)


def run(select: str) -> None:
    result = CliRunner().invoke(mlops, ["run", "--select", select])
    assert result.exit_code == 0, result.output


def test_a_labelled_trace_is_a_case_of_the_next_evaluation(trace_id) -> None:
    run(DATA)
    printed = label(trace_id[:14], "--to", "questions", "--set", "expected=EWR", "--by", "ada")
    assert printed.splitlines() == [f"case '{trace_id}' of dataset/questions: expected='EWR'", f"next: mlops run --select '{DATA}'"]
    tables = json.loads(CliRunner().invoke(mlops, ["status", "--json", "-"]).stdout)["tables"]
    assert {row["table"]: row["stale partitions"] for row in tables}["dataset/questions"] == 1
    run(DATA)
    case = ml.read_table("dataset/questions").row(by_predicate=pl.col("case") == trace_id, named=True)
    assert (case["question"], case["sentences"], case["expected"], case["labelled_by"]) == ("Which airport is late?", 2, "EWR", "ada")
    scores = ml.read_table("evaluation/replies").select("case", "exact_match").rows()
    assert sorted(scores) == sorted([("own", 1.0), (trace_id, 0.0)])


def test_a_second_label_of_a_case_replaces_the_first(trace_id) -> None:
    label(trace_id, "--to", "questions", "--set", "expected=EWR", "--by", "ada", "--case", "late airport")
    printed = label(trace_id, "--to", "questions", "--set", "expected=LGA", "--by", "ben", "--case", "late airport")
    assert "expected='LGA', replaces the label of ada" in printed
    labels = ml.llm.read_labels("questions")
    assert labels.select("case", "expected", "labelled_by", "trace_id").rows() == [("late airport", "LGA", "ben", trace_id)]
    assert ml.read_table("labels/questions").height == 2


def test_the_types_of_a_dataset_without_rows_are_those_of_its_schema_or_unknown(folder, server) -> None:
    text = (folder / "definitions.py").read_text()
    with serve_traces(folder, server) as stand:
        trace_id = stand.answer({"question": "Which airport is late?"}).json()["trace_id"]
    assert "'dataset/questions' has no rows and no schema" in refuse(trace_id, "--to", "questions", "--set", "expected=EWR")
    schema = """
import pandera.polars as pa

class Questions(pa.DataFrameModel):
    case: str
    question: str
    expected: str
    minutes: int
"""
    (folder / "definitions.py").write_text(schema + text.replace('key="case", keep="last"', 'schema=Questions, key="case", keep="last"'))
    assert "is Int64, and 'many' does not fit" in refuse(trace_id, "--to", "questions", "--set", "minutes=many")
    label(trace_id, "--to", "questions", "--set", "minutes=9")
    assert ml.llm.read_labels("questions")["minutes"].to_list() == [9]


def test_values_get_the_types_of_the_dataset(trace_id) -> None:
    label(trace_id, "--to", "questions", "--set", "expected=15", "--set", "minutes=9", "--set", "sure=false", "--set", "question=Why?")
    (row,) = ml.llm.read_labels("questions").select("expected", "minutes", "sure", "question", "sentences").rows()
    assert row == ("15", 9, False, "Why?", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "minutes=many"], "column 'minutes' of 'dataset/questions' is Int64, and 'many' does not fit"),
        (["--set", "minutes=9.5"], "column 'minutes' of 'dataset/questions' is Int64, and '9.5' does not fit"),
        (["--set", "sure=perhaps"], "column 'sure' of 'dataset/questions' is Boolean, and 'perhaps' does not fit"),
        (["--set", "expcted=EWR"], "'dataset/questions' has no column 'expcted'"),
        (["--set", "trace_id=0"], "column 'trace_id' of a label cannot be set"),
        (["--set", "expected"], "--set 'expected' is not column=value"),
        (["--set", "expected=a", "--set", "expected=b"], "sets 'expected' twice"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_nothing_is_written(trace_id, words, message) -> None:
    assert message in refuse(trace_id, "--to", "questions", *words)


def test_a_dataset_that_would_not_show_the_label_is_refused(trace_id) -> None:
    run('key:"dataset/numbered"')
    assert "there is no dataset 'question'" in refuse(trace_id, "--to", "question", "--set", "expected=a")
    message = refuse(trace_id, "--to", "plain", "--set", "expected=a")
    assert "'dataset/plain' does not read labels" in message
    assert "ml.llm.read_labels('plain')" in message
    assert "column 'case' of 'dataset/numbered' is Int64" in refuse(trace_id, "--to", "numbered", "--set", "note=a")
    assert "no trace of 'reply_api' starts with 'ffff'" in refuse("ffff", "--to", "questions", "--set", "expected=a")


def test_a_trace_without_content_or_without_a_variable_is_refused_with_what_to_do(folder, server) -> None:
    run('key:"dataset/questions"')
    with serve_traces(folder, server, capture=False) as stand:
        empty = stand.answer().json()["trace_id"]
    message = refuse(empty, "--to", "questions", "--set", "expected=a")
    assert f"trace '{empty}' has no content" in message
    assert "capture=True" in message
    with serve_traces(folder, server) as stand:
        chat = {"model": "reply", "messages": [{"role": "user", "content": "Is it late?"}]}
        talked = stand.post("/v1/chat/completions", chat)
        assert talked.status_code == 200, talked.text
    (found,) = [
        row["id"] for row in json.loads(CliRunner().invoke(mlops, ["traces", "list", "reply_api", "--json", "-"]).stdout) if row["input"]
    ]
    assert "has no value of 'question', a variable of 'prompt/reply'" in refuse(found, "--to", "questions", "--set", "expected=a")
    label(found, "--to", "questions", "--set", "question=Is it late?", "--set", "expected=a")
    assert ml.llm.read_labels("questions")["question"].to_list() == ["Is it late?"]


def test_the_first_label_fixes_no_type_by_a_null_or_a_whole_number(folder) -> None:
    text = (folder / "definitions.py").read_text()
    signature = "reply(question: str, airline: str | None = None, delays: list[float] = [], wait: float = 0, anything: object = None)"
    text = text.replace('reply(question: str, context: str = "", sentences: int = 1)', signature).replace("{sentences} sentences", "short")
    (folder / "definitions.py").write_text(text)
    run(DATA)
    first = {"question": "late?", "airline": None, "delays": [], "wait": 3, "anything": None}
    second = {"question": "late?", "airline": "B6", "delays": [2.5], "wait": 2.5, "anything": "text"}
    for case, values in {"first": first, "second": second}.items():
        with ml.llm.start_trace(ml.llm.TraceSource("bot")) as root:
            root.attributes["mlops.input"] = json.dumps(values)
        command = ["traces", "label", "bot", root.trace_id, "--to", "questions", "--set", "expected=EWR", "--case", case]
        result = CliRunner().invoke(mlops, command)
        assert result.exit_code == 0, result.output + str(result.exception)
    rows = ml.llm.read_labels("questions").select("case", "airline", "delays", "wait", "anything").rows()
    assert rows == [("first", None, [], 3.0, None), ("second", "B6", [2.5], 2.5, "text")]


def test_only_columns_of_the_dataset_and_variables_are_taken_from_the_trace_of_an_application(folder) -> None:
    run('key:"dataset/questions"')
    sent = {"question": "Is it late?", "context": "JFK", "case": "own", 'x"; DROP TABLE labels; --': 1, "QUESTION": [1], "sentences": 3.0}
    with ml.llm.start_trace(ml.llm.TraceSource("bot")) as root:
        root.attributes["mlops.input"] = json.dumps(sent)
    command = ["traces", "label", "bot", root.trace_id, "--to", "questions", "--set", "expected=no"]
    result = CliRunner().invoke(mlops, command)
    assert result.exit_code == 0, result.output + str(result.exception)
    labels = ml.llm.read_labels("questions")
    assert sorted(labels.columns[1:-3]) == ["context", "expected", "question", "sentences"]
    assert labels.row(0)[0] == root.trace_id
    assert labels["sentences"].to_list() == [3]
    run('key:"dataset/questions"')
    assert ml.read_table("dataset/questions").height == 2


def test_two_commands_at_one_moment_lose_no_label(trace_id, folder) -> None:
    environment = clean_environment(folder / "home", PYTHONWARNINGS="ignore")
    command = [sys.executable, "-m", "mlops_assets.cli.main", "traces", "label", "reply_api", trace_id, "--to", "questions"]
    cases = [("a", "EWR"), ("b", "JFK")]
    running = [
        subprocess.Popen([*command, "--case", case, "--set", f"expected={expected}"], cwd=folder, env=environment, stderr=subprocess.PIPE)
        for case, expected in cases
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert sorted(ml.llm.read_labels("questions").select("case", "expected").rows()) == cases


def test_the_command_says_what_is_wrong_without_a_traceback(trace_id, folder) -> None:
    done = run_mlops(
        ["traces", "label", "reply_api", trace_id, "--to", "plain", "--set", "a=b"], cwd=folder, env=clean_environment(folder / "home")
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mlops: 'dataset/plain' does not read labels\nHint: ")
