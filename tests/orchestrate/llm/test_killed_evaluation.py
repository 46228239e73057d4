"""A killed evaluation continues where it ended, and the command line shows it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mlops_assets as ml
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.project_target import ProjectTarget
from mlops_assets.cli.status import collect_status, validate_project
from mlops_assets.errors import MissingExtraError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import ROOT, metadata
from tests.orchestrate.llm.replies import TABLE, declare, reply
from tests.serving.llm.scripted_server import ScriptedServer, answer, stay_silent

MATERIALISE = """
import sys
import mlops_assets as ml
from tests.conftest import Runner
from tests.memory_instance import open_memory_instance
from tests.orchestrate.llm.replies import declare

if __name__ == "__main__":
    with open_memory_instance() as instance:
        Runner(ml.build_definitions(declare(sys.argv[1]), platform=ml.Platform.at(sys.argv[2])), instance)()
"""


def load(platform, items: list) -> LoadedProject:
    definitions = ml.build_definitions(items, platform=platform)
    return LoadedProject(ProjectTarget(Path("replies.py"), "replies", Path(), in_package=False), definitions, compiled_projects()[-1:])


def test_a_killed_evaluation_does_not_ask_answered_cases_again(platform, run) -> None:
    with ScriptedServer(*[answer("yes")] * 3, stay_silent()) as server:
        command = [sys.executable, "-W", "ignore", "-c", MATERIALISE, server.url, platform.home]
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
            server.wait_for_requests(4)  # one at a time: the first three are answered, the fourth waits
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert TABLE not in open_stores(platform).lake.tables()
        result = run(ml.build_definitions(declare(server.url), platform=platform))()
        questions = [request.body["messages"][-1]["content"].split("\n")[1] for request in server.requests]
    assert questions == [f"Question {number}?" for number in (0, 1, 2, 3, 3, 4, 5)]
    found = open_stores(platform).lake.read(TABLE).sort("case")
    assert found["answer"].to_list() == ["yes"] * 6
    assert found["cached"].to_list() == [True] * 3 + [False] * 3
    facts = metadata(result, TABLE)
    assert (facts["requests"], facts["cached answers"], facts["input tokens"]) == (3, 3, 42)


def test_the_command_line_validates_an_evaluation_and_shows_its_table(platform, run) -> None:
    with ScriptedServer() as server:
        project = load(platform, declare(server.url))
        run(project.definitions)()
    assert "is valid: 5 assets, 4 checks" in validate_project(project)
    row = collect_status(project)["tables"][-1]
    assert (row["table"], row["rows"], row["stale partitions"]) == (TABLE, 6, 0)


@pytest.mark.parametrize(
    ("package", "extra", "problem"),
    [
        ("httpx", "llm", "'evaluation/replies' needs httpx, which is not installed"),
        ("jsonschema", "llm", "a scorer of 'evaluation/replies' needs jsonschema, which is not installed"),
        ("xllamacpp", "embedded", "the embedded model of 'prompt/reply' needs xllamacpp, which is not installed"),
    ],
)
def test_validation_names_the_extra_that_is_missing(package, extra, problem, platform, monkeypatch) -> None:
    questions, _, _ = declare("http://127.0.0.1:9/v1")
    prompt = ml.llm.prompt(model=ml.llm.LLM("smollm2"))(reply)
    evaluation = ml.llm.PromptEvaluation("replies", prompt=prompt, cases=questions, scorers=[ml.llm.JsonSchemaMatch({})])
    for other in {"httpx", "jsonschema", "xllamacpp"} - {package}:
        monkeypatch.setitem(sys.modules, other, sys)  # as if it was installed
    project = load(platform, [questions, prompt, evaluation])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        validate_project(project)
    assert problem in caught.value.message
    assert caught.value.hint == f"pip install 'mlops_assets[{extra}]'"
