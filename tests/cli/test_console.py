"""`mlops ui --console-only`: it serves until it is stopped, and refuses what cannot work."""

import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.browser import MLOPS, PATIENCE, free_port
from tests.cli.test_cli import good, mlops
from tests.conftest import clean_environment


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("console") / "tumours"
    good(mlops(folder.parent, "init", "tumours"))
    return folder


def test_the_console_of_a_new_project_answers_and_ends_when_it_is_interrupted(project) -> None:
    port = free_port()
    command = [*MLOPS, "ui", "--console-only", "--console-port", str(port), "--dagster-url", "http://127.0.0.1:3000/"]
    with subprocess.Popen(command, cwd=project, env=clean_environment(project / ".mlops"), stderr=subprocess.PIPE, text=True) as server:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE).read().decode()
                break
            except OSError:
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.2)
        server.send_signal(signal.SIGINT)
        printed = server.communicate(timeout=PATIENCE)[1]
    assert "Nothing has run yet" in page
    assert "<code>mlops run</code>" in page
    assert 'href="http://127.0.0.1:3000"' in page
    assert f"Console: http://127.0.0.1:{port}" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("only", [["--console-only"], []])
def test_a_port_in_use_is_refused_with_a_hint(project, only: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = mlops(project, "ui", *only, "--port", str(free_port()), "--console-port", str(port))
    assert refused.returncode == 1
    assert f"the console cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert "--console-port" in refused.stderr
