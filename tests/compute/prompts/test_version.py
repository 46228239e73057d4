"""The version of a prompt changes with what decides its answers, and with nothing else."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

import mlops_assets as ml
from tests.conftest import ROOT

SMOL = ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1")
WORDS = 20


@dataclasses.dataclass
class Answer:
    text: str


def answer(question: str) -> None:
    """Answer."""


def build(question: str) -> str:
    """Answer."""
    return shorten(question)


def shorten(text: str) -> str:
    return text[:WORDS]


def declare(function=answer, model=SMOL, **more):
    return ml.llm.prompt(model=model, **more)(function)


def test_the_same_declaration_is_the_same_version_in_another_process() -> None:
    code = "from tests.compute.prompts.test_version import *; print(ml.llm.hash_prompt(declare()), ml.llm.hash_prompt(declare(build)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert found == [ml.llm.hash_prompt(declare()), ml.llm.hash_prompt(declare(build))]


def test_everything_that_decides_the_answer_makes_another_version() -> None:
    def other_instructions(question: str) -> None:
        """Answer briefly."""

    def other_variable(query: str) -> None:
        """Answer."""

    def other_type(question: int) -> None:
        """Answer."""

    def with_default(question: str = "Why?") -> None:
        """Answer."""

    def other_default(question: str = "When?") -> None:
        """Answer."""

    prompts = [
        declare(),
        declare(build),
        declare(other_instructions),
        declare(other_variable),
        declare(other_type),
        declare(with_default),
        declare(other_default),
        declare(response=Answer),
        declare(examples=[ml.llm.FewShotExample({"question": "6 times 7"}, "42")]),
        declare(model=ml.llm.LLM("smollm3", base_url=SMOL.base_url)),
        declare(model=ml.llm.LLM("smollm2", base_url=SMOL.base_url, temperature=0.7)),
    ]
    assert len({ml.llm.hash_prompt(prompt) for prompt in prompts}) == len(prompts)


def test_a_name_and_an_endpoint_make_no_new_version() -> None:
    def renamed(question: str) -> None:
        """Answer."""

    moved = ml.llm.LLM("smollm2", base_url="http://127.0.0.1:9090/v1")
    assert ml.llm.hash_prompt(declare(renamed, moved)) == ml.llm.hash_prompt(declare())


PROJECT = '''import mlops_assets as ml

WORDS = {words}

@ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
def answer(question: str) -> str:
    """Answer."""
    return shorten(question)

def shorten(text: str) -> str:
    return text[:WORDS]  # {comment}
'''


def test_a_helper_of_the_body_counts_and_a_comment_does_not(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for number, (words, comment) in enumerate([(20, "short"), (20, "brief"), (30, "short")]):
        (tmp_path / f"prompts_{number}.py").write_text(PROJECT.format(words=words, comment=comment))
        versions.append(ml.llm.hash_prompt(importlib.import_module(f"prompts_{number}").answer))
    assert versions[0] == versions[1] != versions[2]
