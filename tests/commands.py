"""Commands for tests that call them hundreds of times: a process that has imported what every command imports forks for each.

A command still has a process, an environment, a folder and an output of its own; this saves three seconds of imports. Tests that kill, serve or
time a command start it as users do.
"""

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from multiprocessing.context import BaseContext
from pathlib import Path

from mlops_assets.compute.training import environment
from mlops_assets.stores.lake import connection
from tests.warm_start.warm_modules import MODULES

ROOT = Path(__file__).parents[1]
PROGRAMS = ("mlops", "dagster", "dg", "python")
PARENT = "WARM_PARENT"  # names the socket of the process that forks to the programs of a shell
# What a shell finds in the place of each of PROGRAMS: it asks the process that forks, and ends as the command does.
PROGRAM = """#!{python} -IS
import json, os, socket, sys
environment = dict(os.environ)
environment["PATH"] = environment["PATH"].partition(os.pathsep)[2]
line = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
asked = {{"line": line, "cwd": os.getcwd(), "env": environment}}
with socket.socket(fileno=int(environment.pop({parent!r}))) as there:
    socket.send_fds(there, [json.dumps(asked).encode() + b"\\n"], [1, 2])
    answer = there.makefile().readline()
sys.exit(int(answer) % 256)
"""
WARM_START = str(Path(__file__).with_name("warm_start"))  # on the PYTHONPATH of a command, makes what Dagster spawns fork as well


class _Parent:
    """The process that forks; started when it is first asked, ended with the tests."""

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), None

    def __call__(self, question: dict, out: int, err: int) -> int:
        with self._lock:
            self._start()
            socket.send_fds(self._here, [json.dumps(question).encode() + b"\n"], [out, err])
            answer = self._here.makefile("r").readline()
        assert answer, "the process that forks commands has died"
        return int(answer)

    def run_line(self, line: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
        with self._lock:
            self._start()
            asked = {"PATH": f"{self._programs.name}{os.pathsep}{env['PATH']}", PARENT: str(self._here.fileno())}
            options = {"cwd": cwd, "env": {**env, **asked}, "pass_fds": [self._here.fileno()]}
            return subprocess.run(line, shell=True, capture_output=True, text=True, **options)  # noqa: S602

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._programs = tempfile.TemporaryDirectory(prefix="programs")
        for name in PROGRAMS:
            program = Path(self._programs.name) / name
            program.write_text(PROGRAM.format(python=sys.executable, parent=PARENT))
            program.chmod(0o755)
        self._here, there = socket.socketpair()
        with there:
            line = [sys.executable, "-m", "tests.commands", str(there.fileno())]
            self._process = subprocess.Popen(line, pass_fds=[there.fileno()], cwd=ROOT)
        atexit.register(self._end)

    def _end(self) -> None:
        self._here.close()
        self._process.wait()
        self._programs.cleanup()


_parent = _Parent()


def run_mlops(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run one command to its end, as `subprocess.run(["mlops", ...], capture_output=True, text=True)` does."""
    return run_program(["mlops", *arguments], cwd=cwd, env=env)


def run_code(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, as `subprocess.run([sys.executable, "-c", ...], capture_output=True, text=True)` does."""
    return run_program(["python", "-c", code, *arguments], cwd=ROOT, env=os.environ)


def run_line(line: str, *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run a line as a shell does; its PROGRAMS fork, one after the other, so that none may run in the background."""
    return _parent.run_line(line, cwd, env)


def warm_context() -> BaseContext:
    """Return what starts processes as "spawn" does, but with everything imported."""
    context = multiprocessing.get_context("forkserver")
    warm_start = "tests.warm_start"
    context.set_forkserver_preload(
        [f"{warm_start}.begin_imports", *MODULES, "hypothesis", "psycopg", "pytest", f"{warm_start}.end_imports"]
    )
    return context


def run_program(line: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run one of PROGRAMS to its end: `python` takes a file, or `-c` and code, and arguments."""
    assert line[0] in PROGRAMS
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = _parent({"line": list(line), "cwd": str(cwd), "env": dict(env)}, out.fileno(), err.fileno())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(line), code, out.read(), err.read())


def _serve(descriptor: int) -> None:
    warnings.simplefilter("ignore")
    gc.disable()  # imports make objects that stay; looking for garbage among them takes a third of the time
    for name in ("tests.warm_start.sitecustomize", "mlops_assets.orchestrate.features.dbt", "tests.warm_dbt", *MODULES):
        import_module(name)
    sys.modules["matplotlib.font_manager"].findfont("DejaVu Sans")  # read once: the list of fonts, and that of installed packages
    environment.installed_distributions()
    connection._CONFIG["threads"] = 1  # as in tests/conftest.py
    gc.freeze()  # so that forks neither search nor copy what has been imported
    gc.enable()
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
                become(json.loads(data), *descriptors)
            for each in descriptors:
                os.close(each)
            _, status = os.waitpid(child, 0)
            here.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _execute(program: str, *arguments: str) -> None:
    if arguments[:1] == ("-c",):
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    elif program == "python":
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(arguments[0]).parent.absolute()))
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.argv = [program, *arguments]
        (entry,) = entry_points(group="console_scripts", name=program)
        entry.load()()


def become(asked: dict, out: int, err: int) -> None:
    """Become the command: its output, folder and environment, as a new interpreter has them; never return."""
    for descriptor, target in ((out, 1), (err, 2)):
        os.dup2(descriptor, target)
    sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False) for fd in (1, 2))  # noqa: SIM115
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if os.environ.get("WARM_DBT"):
        import_module("tests.warm_dbt").use_warm_dbt(setattr)
    sys.modules["__main__"] = types.ModuleType("__main__")  # click and multiprocessing look at it
    code: object = 0
    try:
        _execute(*asked["line"])
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
