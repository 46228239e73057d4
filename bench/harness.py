"""What every benchmark shares: peers' environments, child processes, timing in alternation."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out"
BIN = Path(sys.executable).parent
PATIENCE = 300  # seconds after which something hangs rather than takes long
Contender = Callable[[], float]  # does the thing once and returns the seconds it took

# Settings of whoever starts the benchmark; with the first two, Python would compile again at each start, or flush each line.
_DROPPED = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH", "VIRTUAL_ENV"})
_DROPPED_PREFIXES = ("MLOPS_", "DAGSTER_", "METAFLOW_", "DBT_")


class ContenderError(Exception):
    """A contender could not do its work, or gave another answer than the others."""


@dataclass
class Samples:
    """What one contender took, round by round.

    Parameters
    ----------
    seconds
        One figure a round.
    failure
        Why the figures do not count; None when they do.
    """

    seconds: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """The median in seconds; None when nothing counts."""
        return median(self.seconds) if self.seconds and self.failure is None else None


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a timed process: bytecode is written, and nobody's settings leak in."""
    kept = {k: v for k, v in os.environ.items() if k not in _DROPPED and not k.startswith(_DROPPED_PREFIXES)}
    return kept | more


def compile_ours() -> None:
    """Compile this package beforehand, as an installed one would be."""
    compileall.compile_dir(str(ROOT / "mlops_assets"), quiet=1)
    compileall.compile_dir(str(ROOT / "bench"), quiet=1, maxlevels=1)


def peer(name: str, *requirements: str) -> Path:
    """Return the interpreter of a peer's own environment, made when its pinned requirements changed."""
    home = OUT / "venvs" / name
    python, stamp = home / "bin" / "python", home / "requirements"
    wanted = "\n".join((sys.version, *requirements))
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {' '.join(requirements)} into {home.relative_to(ROOT)}", flush=True)
        uv = str(BIN / "uv")
        _install([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
        _install([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *requirements])
        stamp.write_text(wanted, encoding="utf-8")
    return python


def _install(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContenderError(f"cannot be installed: {tail(done.stderr)}")


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Return the versions that are installed beside an interpreter."""
    code = "import sys, json; from importlib.metadata import version; print(json.dumps({p: version(p) for p in sys.argv[1:]}))"
    return json.loads(output([str(python), "-c", code, *packages]))


def scratch(name: str) -> Path:
    """Return an empty folder below ``bench/out``: on the disk of the project, not in a memory file system."""
    folder = OUT / "scratch" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def tail(text: str, lines: int = 4) -> str:
    """Return the last lines of a process's words."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[-400:]


def output(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=dict(env or environment()), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        raise ContenderError(f"not done after {PATIENCE} s") from error
    if done.returncode:
        raise ContenderError(f"exit code {done.returncode}: {tail(done.stderr or done.stdout)}")
    return done.stdout


def timed(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> float:
    """Run a command to its end and return the seconds from its start to its exit."""
    begun = time.perf_counter()
    output(command, cwd=cwd, env=env)
    return time.perf_counter() - begun


def alternate(contenders: Mapping[str, Contender], *, rounds: int, warm: int = 1) -> dict[str, Samples]:
    """Time contenders in turns, A B A B, so that a slow minute of the machine hits all of them.

    Parameters
    ----------
    contenders
        By name.
    rounds
        How many figures each gives.
    warm
        Rounds before, which do not count.
    """
    samples = {name: Samples() for name in contenders}
    for turn in range(-warm, rounds):
        for name, contender in contenders.items():
            if samples[name].failure is None:
                _turn(contender, samples[name], counts=turn >= 0)
    return samples


def _turn(contender: Contender, samples: Samples, *, counts: bool) -> None:
    try:
        seconds = contender()
    except ContenderError as error:
        samples.failure = str(error).replace(str(ROOT), ".")
        return
    if counts:
        samples.seconds.append(seconds)


class Worker:
    """A process that stays alive and answers questions, for warm figures; see :mod:`bench.worker` for the other end."""

    def __init__(self, command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (lives as long as the process)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, cwd=cwd, env=dict(env or environment()), text=True, **pipes)

    def tell(self, **question: Any) -> None:
        """Send a question without waiting for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def hear(self) -> dict[str, Any]:
        """Wait for an answer."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise ContenderError(f"no answer after {PATIENCE} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and return its answer."""
        self.tell(**question)
        return self.hear()

    def close(self) -> None:
        """End the process: by the end of its input, because a framework may have taken over its signals."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close() if self._process.stdin else None
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for file in (self._process.stdout, self._errors):
            if file:
                file.close()

    def _died(self) -> ContenderError:
        self._process.wait()
        self._errors.seek(0)
        return ContenderError(f"the worker ended: {tail(self._errors.read())}")
