"""Trials in processes of their own: each worker gets the search once, then one trial after the other, over its standard input."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from mlops_assets import errors
from mlops_assets.compute.training.search import Trial
from mlops_assets.compute.user_code.project_modules import child_environment
from mlops_assets.compute.user_code.source_slice import load_source
from mlops_assets.errors import PlatformError
from mlops_assets.orchestrate.training.recorded_function import call_recorded
from mlops_assets.orchestrate.training.trial import SearchContext, run_trial
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.platform import Platform

_STOP = b""


@dataclass(frozen=True, eq=False)
class WorkerSetup:
    """What a worker needs to know, once.

    Parameters
    ----------
    at
        The search.
    platform
        Where runs are recorded.
    source
        Of the model's function, as it is stored.
    config
        The training's hyperparameters, over which a trial's are laid.
    threads
        Its share of the processors.
    folder
        Where the source may be written.
    """

    at: SearchContext
    platform: Platform
    source: Mapping[str, Any]
    config: Mapping[str, Any]
    threads: int
    folder: str


Round = Callable[[Sequence[Trial], Sequence[Trial]], list[Trial]]


@contextmanager
def trial_processes(at: SearchContext, platform: Platform, source: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Round]:
    """Start the workers of a search; yield what runs the trials of one round, and stop them at the end.

    Parameters
    ----------
    at, platform, source, config
        As in :class:`WorkerSetup`.
    """
    count = at.search.processes
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        work = WorkerSetup(at, platform, source, config, max(1, (os.cpu_count() or 1) // count), folder)
        workers = [stack.enter_context(_worker(work)) for _ in range(count)]
        threads = stack.enter_context(ThreadPoolExecutor(count))
        idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def one(trial: Trial, before: Sequence[Trial]) -> Trial:
            worker = idle.get()
            answer = _answer(worker, trial, before)
            idle.put(worker)
            return answer

        yield lambda asked, before: list(threads.map(lambda trial: one(trial, before), asked))


@contextmanager
def _worker(work: WorkerSetup) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "mlops_assets.orchestrate.training.trial_process"]
    with subprocess.Popen(command, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
        try:
            _say(process, work)
            yield process
        finally:
            process.kill()  # it waits, or what it does is no longer wanted


def _say(process: "subprocess.Popen[bytes]", what: object) -> None:
    if process.stdin is None:
        raise AssertionError
    try:
        pickle.dump(what, process.stdin)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has died: whoever reads its answer says so


def _answer(process: "subprocess.Popen[bytes]", trial: Trial, before: Sequence[Trial]) -> Trial:
    if process.stdout is None:
        raise AssertionError
    _say(process, (trial, before))
    try:
        answer: Trial | errors.MlopsError = pickle.load(process.stdout)  # noqa: S301  (from the process that this one has started)
    except (EOFError, pickle.UnpicklingError):
        code = process.wait()
        raise PlatformError(
            f"the process of trial {trial.number} died ({f'signal {-code}' if code < 0 else f'exit code {code}'})",
            hint="look at memory; materialise the model again, and the search goes on with the trials that are left",
        ) from None
    if isinstance(answer, errors.MlopsError):
        raise answer
    return answer


def main() -> None:
    """Answer trials until the parent is gone; it goes with its parent even in the middle of one."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the model's function prints is no answer
    asked: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_listen, args=(sys.stdin.buffer, asked), daemon=True).start()
    work: WorkerSetup = asked.get()
    stores = Stores(work.platform)
    function = load_source(work.source, Path(tempfile.mkdtemp(dir=work.folder)))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(work.threads):
        while True:
            trial, before = asked.get()
            done = run_trial(
                work.at, stores, trial, before, lambda params: call_recorded(function, work.at.splits, {**work.config, **params})
            )
            pickle.dump(done, answers)
            answers.flush()


def _listen(source: IO[bytes], asked: "SimpleQueue[Any]") -> None:
    try:
        while True:
            asked.put(pickle.load(source))  # noqa: S301  (from the process that has started this one)
    except EOFError:
        os._exit(1)


if __name__ == "__main__":
    main()
