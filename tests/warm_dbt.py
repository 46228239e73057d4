"""dbt for tests that call it dozens of times: `mlops-dbt` becomes a small program, for which a process that has imported dbt forks.

dbt still has a process, an environment, a folder and an output of its own; this saves three seconds of imports. Tests that kill dbt start it as
users do.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

from tests.commands import ROOT, become

VARIABLE = "WARM_DBT"  # names the program to the processes that are forked for commands
CODE = "from mlops_assets.orchestrate.features.dbt_process import main; main()"
PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    asked = {{"line": ["python", "-c", {code!r}, *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
    socket.send_fds(there, [json.dumps(asked).encode() + b"\\n"], [1, 2])
    answer = there.makefile().readline()
sys.exit(int(answer))
"""


@cache
def start_warm_dbt() -> str:
    """Start the process that forks; return the path of the program to run instead of `mlops-dbt`."""
    folder = tempfile.TemporaryDirectory(prefix="dbt")  # a socket's path is short
    program, address = Path(folder.name) / "mlops-dbt", f"{folder.name}/socket"
    program.write_text(PROGRAM.format(python=sys.executable, address=address, code=CODE))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        command = [sys.executable, "-m", "tests.warm_dbt", str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], cwd=ROOT, stdin=subprocess.PIPE)
    atexit.register(_end, process, folder)
    return str(program)


def _end(process: subprocess.Popen, folder: tempfile.TemporaryDirectory) -> None:
    process.kill()
    process.communicate()
    folder.cleanup()


def use_warm_dbt(put: Callable[[object, str, object], None]) -> None:
    """Let this process call dbt through the program; `put` sets an attribute of a module."""
    program = os.environ.get(VARIABLE) or start_warm_dbt()
    for name in ("dbt_project", "dbt"):
        put(import_module(f"mlops_assets.orchestrate.features.{name}"), "find_mlops_dbt", lambda: program)


def _serve(descriptor: int) -> None:
    gc.disable()
    for name in ("dbt.cli.main", "dbt.adapters.duckdb", "mlops_assets.orchestrate.features.dbt_process"):
        import_module(name)
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for the processes that answer
    with socket.socket(fileno=descriptor) as listener:
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:  # its input closes when the process that started it has ended
            here, _ = listener.accept()
            with here:
                if os.fork() == 0:
                    listener.close()
                    _answer(here)


def _answer(here: socket.socket) -> None:
    """Fork for one call, and report how it ended; never return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, descriptors, _, _ = socket.recv_fds(here, 1 << 20, 2)
    while not data.endswith(b"\n"):
        data += here.recv(1 << 20)
    child = os.fork()
    if child == 0:
        here.close()
        become(json.loads(data), *descriptors)
    _, status = os.waitpid(child, 0)
    here.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
