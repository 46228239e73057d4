"""Run trials in worker processes: each gets the search once, then one trial after the other, over its standard input."""

import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from mlops_assets.compute.training.search import Trial
from mlops_assets.compute.user_code.project_modules import child_environment
from mlops_assets.compute.user_code.source_slice import load_source
from mlops_assets.compute.user_code.user_errors import shorten
from mlops_assets.errors import DefinitionError, InstallationError, MlopsError, find_public_class
from mlops_assets.orchestrate.training.recorded_function import call_recorded
from mlops_assets.orchestrate.training.trial import SearchContext, run_trial
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.platform import Platform

_STOP = b""


@dataclass(frozen=True, eq=False)
class WorkerSetup:
    """The setup that a worker receives once.

    Parameters
    ----------
    context
        The search.
    platform
        The platform whose tracker records the trials.
    source
        The stored source of the model's function.
    config
        The training's hyperparameters; a trial's hyperparameters override them.
    threads
        The number of threads that the worker may use.
    folder
        The folder into which workers unpack the source.
    """

    context: SearchContext
    platform: Platform
    source: Mapping[str, Any]
    config: Mapping[str, Any]
    threads: int
    folder: str


RunRound = Callable[[Sequence[Trial], Sequence[Trial]], list[Trial]]  # proposed trials, earlier trials → the proposed trials with results


@contextmanager
def start_trial_processes(
    context: SearchContext, platform: Platform, source: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[RunRound]:
    """Start the workers of a search, yield the function that runs the trials of one round, and stop the workers at the end.

    Parameters
    ----------
    context, platform, source, config
        As in :class:`WorkerSetup`.
    """
    count = context.search.processes
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        setup = WorkerSetup(context, platform, source, config, max(1, (os.cpu_count() or 1) // count), folder)
        workers = [stack.enter_context(_start_worker(setup)) for _ in range(count)]
        threads = stack.enter_context(ThreadPoolExecutor(count))
        idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def run_in_worker(trial: Trial, before: Sequence[Trial]) -> Trial:
            worker = idle.get()
            answer = _request_trial(worker, trial, before)
            idle.put(worker)
            return answer

        yield lambda proposed, before: list(threads.map(lambda trial: run_in_worker(trial, before), proposed))


@contextmanager
def _start_worker(setup: WorkerSetup) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "mlops_assets.orchestrate.training.trial_process"]
    with subprocess.Popen(command, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
        try:
            _send_message(process, setup)
            yield process
        finally:
            process.kill()  # it is idle, or its result is no longer wanted


def _send_message(process: "subprocess.Popen[bytes]", message: object) -> None:
    if process.stdin is None:
        raise AssertionError
    try:
        pickle.dump(message, process.stdin)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # the process has died: reading its answer reports it


def _request_trial(process: "subprocess.Popen[bytes]", trial: Trial, before: Sequence[Trial]) -> Trial:
    """Send a trial to a worker, wait, and return the trial with its result; raise the worker's error, or InstallationError if it dies."""
    if process.stdout is None:
        raise AssertionError
    _send_message(process, (trial, before))
    try:
        answer: Trial | MlopsError = pickle.load(process.stdout)  # noqa: S301  (from the process that this one has started)
    except (EOFError, pickle.UnpicklingError):
        code = process.wait()
        raise InstallationError(
            f"the process of trial {trial.number} died ({f'signal {-code}' if code < 0 else f'exit code {code}'})",
            hint="check the free memory; materialise the model again, and the search continues with the remaining trials",
        ) from None
    if isinstance(answer, MlopsError):
        raise answer
    return answer


def main() -> None:
    """Run trials until the parent ends, or until an error outside of the model's function, which is the last answer.

    The worker ends with its parent, even during a trial.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of the model's function is no answer
    requests: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_read_requests, args=(sys.stdin.buffer, requests), daemon=True).start()
    try:
        _answer_requests(requests, answers)
    except Exception as error:  # noqa: BLE001  (modules of the project may raise anything)
        traceback.print_exc()
        _send_answer(answers, _to_public_error(error))
        os._exit(1)  # the thread that reads requests may hold a lock that the interpreter's exit needs


def _answer_requests(requests: "SimpleQueue[Any]", answers: IO[bytes]) -> None:
    """Read the setup, then run one trial for each further request and send its result."""
    setup: WorkerSetup = _next_request(requests)
    stores = Stores(setup.platform)
    function = _load_function(setup)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(setup.threads):
        while True:
            trial, before = _next_request(requests)
            result = run_trial(
                setup.context,
                stores,
                trial,
                before,
                lambda params: call_recorded(function, setup.context.splits, {**setup.config, **params}),
            )
            _send_answer(answers, result)


def _load_function(setup: WorkerSetup) -> Callable[..., Any]:
    """Return the model's function from its stored source; raise DefinitionError if its modules cannot be imported here."""
    folder = Path(tempfile.mkdtemp(dir=setup.folder))
    try:
        return load_source(setup.source, folder)
    except MlopsError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)]
        where = (
            f" ({Path(frames[-1].filename).relative_to(folder)}: {frames[-1].line})" if frames else ""
        )  # lines of a slice have new numbers
        raise DefinitionError(
            f"'{setup.source['function']}' cannot be imported in the process of a trial: {type(error).__name__}: {shorten(str(error))}{where}",
            hint="its modules must be importable in a new process; without processes=, the search runs in the process of the training",
        ) from error


def _to_public_error(error: Exception) -> MlopsError:
    """Return an error that the parent can read: classes of the project cannot be sent."""
    if isinstance(error, MlopsError):
        public = find_public_class(error)
        return error if type(error) is public else public(error.message, hint=error.hint)
    return InstallationError(
        f"the process of a trial failed outside of the model's function: {type(error).__name__}: {shorten(str(error))}",
        hint="the log of the run shows the whole error",
    )


def _send_answer(answers: IO[bytes], answer: Trial | MlopsError) -> None:
    pickle.dump(answer, answers)
    answers.flush()


def _next_request(requests: "SimpleQueue[Any]") -> Any:  # noqa: ANN401
    """Wait for the next message of the parent and return it; raise the error if it cannot be read."""
    request = requests.get()
    if isinstance(request, Exception):
        raise request
    return request


def _read_requests(source: IO[bytes], requests: "SimpleQueue[Any]") -> None:
    """Put each message of the parent into the queue, or the error if it cannot be read; exit when the parent closes the pipe or dies."""
    try:
        while True:
            requests.put(pickle.load(source))  # noqa: S301  (from the process that has started this one)
    except EOFError:
        os._exit(1)
    except Exception as error:  # noqa: BLE001  (a class of the project that cannot be imported)
        requests.put(error)


if __name__ == "__main__":
    main()
