"""The guides, followed to the letter: files are written, commands run, and what they must print is printed."""

import contextlib
import re
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlops_assets.serving.http import control
from tests import warm_dbt
from tests.browser import free_port
from tests.commands import run_line, run_program
from tests.conftest import ROOT, clean_environment
from tests.serving.support import wait_for

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
FENCE = re.compile(r"^```(\S+)[ ]?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTLP_PORT = "4318"  # a guide shows the usual port, and its test listens on a free one
INSTALLS = "pip install "  # the environment of the tests has it already


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Return each command of a console block with what it must print."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line.strip())
    return found


def shell(folder: Path, command: str) -> subprocess.CompletedProcess:
    """Run what is typed; what continues in the background starts as users start it, everything else from a warm process."""
    environment = clean_environment(folder / ".mlops", PYTHONWARNINGS="ignore", DAGSTER_HOME="")
    if " & " in command:
        return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S602
    return run_line(command, cwd=folder, env=environment)


def is_printed(line: str, printed: str) -> bool:
    """Return whether a line was printed; "…" in it stands for any text of the same line, and alone for any lines."""
    return re.search(".*".join(re.escape(part.strip()) for part in line.split("…")), printed) is not None


def test_an_ellipsis_stands_for_text_of_one_line() -> None:
    assert is_printed("a … c", "x\na b c d\n")
    assert not is_printed("a … c", "a b\nc\n")
    assert not is_printed("a b d", "a b c d")


def execute(folder: Path, command: str, wanted: list[str]) -> Path:
    """Run one command; return the folder in which the next one runs."""
    if command.startswith("cd "):
        return folder / command[3:]
    done = shell(folder, command)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, f"$ {command}\n{printed}"
    assert [line for line in wanted if not is_printed(line, printed)] == [], f"$ {command}\n{printed}"
    return folder


def materialize(folder: Path, asset: str, config: str) -> None:
    """Materialise one asset with the configuration that a guide says to type in the UI: tests/ui/test_web_ui.py types it in a browser."""
    (folder / "launchpad.yaml").write_text(config)
    environment = clean_environment(folder / ".mlops", PYTHONWARNINGS="ignore", DAGSTER_HOME=str(folder / ".mlops" / "dagster"))
    line = ["dagster", "asset", "materialize", "-f", "definitions.py", "--select", f'key:"{asset}"', "--config", "launchpad.yaml"]
    done = run_program(line, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def stopped(tmp_path):
    """Whatever a guide starts and a failure leaves running is stopped."""
    yield
    for path in tmp_path.glob("**/*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(int(path.read_text()))
            if process.cwd() == str(path.parent):  # no later process with the same number
                process.kill()
    for folder in tmp_path.glob("**/services/*/"):
        control.stop(str(folder.parents[1]), folder.name)


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def endpoint(guide, monkeypatch):
    """A guide that asks a language model finds the stand-in of a guide, on a free port."""
    if "LLM_URL" not in guide.read_text():
        yield
        return
    blocks = FENCE.findall((ROOT / "docs" / "guides" / "evaluate-a-prompt.md").read_text())
    (stand_in,) = [block for _, name, block in blocks if name == "stand_in.py"]
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", stand_in, str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_open(port))
        monkeypatch.setenv("LLM_URL", f"http://127.0.0.1:{port}/v1")
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("stopped", "endpoint")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_does_what_it_says(guide, tmp_path, monkeypatch) -> None:
    folder, ran, text = tmp_path, 0, guide.read_text().replace(OTLP_PORT, str(free_port()))
    if "ml.DbtProject" in text:
        monkeypatch.setenv(warm_dbt.VARIABLE, warm_dbt.start_warm_dbt())
    for language, name, block in FENCE.findall(text):
        if language == "python":
            if name:  # a block without a name shows a part of the reference project
                (folder / name).write_text(block)
            else:
                assert block in (ROOT / "definitions.py").read_text()
        elif language == "yaml" and name:
            materialize(folder, name, block)
        elif language == "console":
            for command, wanted in commands(block):
                if not command.startswith(INSTALLS):
                    folder = execute(folder, command, wanted)
                    ran += 1
    assert ran >= 5


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d s", "# s", text)


def test_the_readme_shows_what_init_and_run_print(tmp_path) -> None:
    (block,) = [block for language, _, block in FENCE.findall((ROOT / "README.md").read_text()) if language == "console"]
    folder = tmp_path
    for command, wanted in commands(block):
        if command.startswith(INSTALLS):
            assert command == 'pip install "mlops_assets[demo]"'
        elif command.startswith("cd "):
            folder = folder / command[3:]
        else:
            done = shell(folder, command)
            printed = [line.strip() for line in without_seconds(done.stdout).splitlines()]
            assert [line for line in map(without_seconds, wanted) if line not in printed] == [], done.stdout + done.stderr
    assert folder.name == "tumours"


def test_the_readme_shows_the_project_that_init_writes() -> None:
    blocks = [block for language, _, block in FENCE.findall((ROOT / "README.md").read_text()) if language == "python"]
    assert (ROOT / "mlops_assets/cli/template/definitions.py.txt").read_text() in blocks
