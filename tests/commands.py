"""`mlops` for tests that call it hundreds of times: a process that has imported what every command imports, and forks for each.

A command still has a process, an environment, a folder and an output of its own; what it saves is three seconds of imports. What is killed, served or
timed is started as users start it.
"""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from mlops_assets.compute.training import environment

_IMPORTED = (
    "dagster",
    "dagster._core.definitions.antlr_asset_selection.antlr_asset_selection",
    "dagster._core.execution.execute_in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "duckdb",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "polars",
    "pyarrow.dataset",
    "scipy.stats",
    "skops.io",
    "sklearn.ensemble",
    "sklearn.inspection",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "mlops_assets",
    "mlops_assets.cli.main",
    "mlops_assets.cli.project",
    "mlops_assets.cli.registry.aliases",
    "mlops_assets.cli.running",
    "mlops_assets.cli.status",
    "mlops_assets.cli.summary",
    "mlops_assets.cli.registry.versions",
    "mlops_assets.orchestrate.core.event_storage",
)


class _Parent:
    """The process that forks; started when it is first asked, ended with the tests."""

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), None

    def __call__(self, question: dict, out: int, err: int) -> int:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            socket.send_fds(self._here, [json.dumps(question).encode() + b"\n"], [out, err])
            answer = self._here.makefile("r").readline()
        assert answer, "the process that forks commands has died"
        return int(answer)

    def _start(self) -> None:
        self._here, there = socket.socketpair()
        with there:
            line = [sys.executable, "-m", "tests.commands", str(there.fileno())]
            self._process = subprocess.Popen(line, pass_fds=[there.fileno()], cwd=Path(__file__).parents[1])
        atexit.register(self._end)

    def _end(self) -> None:
        self._here.close()
        self._process.wait()


_parent = _Parent()


def run_mlops(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run one command to its end, as `subprocess.run(["mlops", ...], capture_output=True, text=True)` does."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = _parent({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}, out.fileno(), err.fileno())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["mlops", *arguments], code, out.read(), err.read())


def _serve(descriptor: int) -> None:
    warnings.simplefilter("ignore")
    for name in _IMPORTED:
        import_module(name)
    sys.modules["matplotlib.font_manager"].findfont("DejaVu Sans")  # read once: the list of fonts, and that of installed packages
    environment.installed_distributions()
    with socket.socket(fileno=descriptor) as here:
        while True:
            data, descriptors, _, _ = socket.recv_fds(here, 1 << 20, 2)
            while data and not data.endswith(b"\n"):
                data += here.recv(1 << 20)
            if not data:
                return
            child = os.fork()
            if child == 0:
                here.close()
                _command(json.loads(data), *descriptors)
            for each in descriptors:
                os.close(each)
            _, status = os.waitpid(child, 0)
            here.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _command(asked: dict, out: int, err: int) -> None:
    """Become the command: its output, folder and environment, as a new interpreter has them; never return."""
    for descriptor, target in ((out, 1), (err, 2)):
        os.dup2(descriptor, target)
    sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False) for fd in (1, 2))  # noqa: SIM115
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.argv = ["mlops", *asked["arguments"]]
    sys.modules["__main__"].__package__ = ""  # click calls the program by its module where it is one of a package
    code: object = 0
    try:
        sys.modules["mlops_assets.cli.main"].main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001  (an interpreter prints it and ends with 1)
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    with contextlib.suppress(BaseException):
        threading._shutdown()
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
