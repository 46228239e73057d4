"""The trainings of a replay: each is fitted once for all policies, in worker processes, and kept for a later replay."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.util import get_temp_dir
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from mlops_assets.compute.training.classes import refuse_unclear_classes
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.compute.training.label_copies import refuse_label_copies
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.training.search import best_trial, run_trials
from mlops_assets.compute.training.seeds import seed_globals
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.compute.user_code.user_errors import describe_error
from mlops_assets.errors import DataError, InstallationError, MlopsError
from mlops_assets.orchestrate.replay.history import FittedPart, History, store_history
from mlops_assets.orchestrate.training.estimator_kind import refuse_without_predict
from mlops_assets.orchestrate.training.estimator_package import training_libraries
from mlops_assets.orchestrate.training.recorded_function import call_recorded
from mlops_assets.orchestrate.training.train_windows import needs_validation
from mlops_assets.orchestrate.training.trial import score_trial
from mlops_assets.serving.formats.argmax import argmax_class, may_predict_argmax, predict_labels
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.stores.platform.run_log import start_run
from mlops_assets.values.function import Injection
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.compute.training.search import Trial
    from mlops_assets.values.evaluation import Split
    from mlops_assets.values.model import Model

_IN_PROCESS = threading.Lock()  # seeds of the global generators are those of one fit at a time
_BLOCK = 20_000  # rows that are predicted at once
_WORKER_IMPORTS = ["dagster", "sklearn.pipeline", "mlops_assets.orchestrate.compiler.build", __name__]  # once, before workers are forked
_MAX_SOCKET_FOLDER = 80  # characters: the path of a socket has at most 107
_FORMAT = 3  # of stored fits: another number refits all of them
_T = TypeVar("_T")


@dataclass(frozen=True)
class FitRequest:
    """The rows of one fit.

    Parameters
    ----------
    as_of
        Only rows that were known by this time.
    window
        The span of the newest training rows; None for the declared span.
    rows
        ``judged`` keeps the holdout from training, so that gates can judge on it. ``refitted`` trains on the rows of all parts, and
        ``all`` on every known row, whether it has a part or not; with a validation part, on the rows that
        its split leaves for training.
    judge_on
        The span of the newest rows, on which gates judge; the declared holdout when None.
    params
        Hyperparameters that an earlier fit has found, as JSON; a search is run when empty.
    """

    as_of: datetime
    window: timedelta | None
    rows: FittedPart
    judge_on: timedelta | None = None
    params: str = ""


class Fit:
    """A fitted model of a replay.

    Parameters
    ----------
    request, fit_id
        What was requested, and its hash.
    history, model
        The rows, and the model's declaration.
    estimator
        The fitted estimator; None when the training failed.
    facts
        ``seconds`` of CPU time, ``rows``, and ``error``, which is empty after a success.
    """

    def __init__(  # noqa: PLR0913  (a record)
        self,
        request: FitRequest,
        fit_id: str,
        history: History,
        model: Model[..., Any],
        estimator: Any,  # noqa: ANN401  (any estimator)
        facts: Mapping[str, Any],
    ) -> None:
        self.request, self.id, self.estimator, self.facts = request, fit_id, estimator, facts
        self._history, self._model = history, model
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray | None] | None] = {}
        self._lock = threading.Lock()

    @property
    def error(self) -> str:
        """The reason why the training failed; empty after a success."""
        return str(self.facts["error"])

    def predict_split(self, split: Split) -> CachedPredictor:
        """Return the cached predictions of a part of the training set."""
        return CachedPredictor(self.estimator, split.X)

    def predict_rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predictions and probabilities (None without any) of consecutive rows of the history.

        Raises
        ------
        DataError
            The estimator raises an error on these rows.
        """
        with self._lock:
            first = start // _BLOCK
            blocks = [self._predict_block(block) for block in range(first, -(-stop // _BLOCK))]
            if any(block is None for block in blocks):
                return self._predict_exactly(start, stop)
        begin, end = start - first * _BLOCK, stop - first * _BLOCK
        labels, shares = (None if blocks[0][i] is None else np.concatenate([block[i] for block in blocks])[begin:end] for i in (0, 1))  # type: ignore[index]
        return labels, shares  # type: ignore[return-value]

    def _predict_block(self, block: int) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return the predictions of a block of rows, which usually serve many windows; None if it has a row that cannot be predicted."""
        if block not in self._blocks:
            try:
                self._blocks[block] = self._predict(self._history.rows[block * _BLOCK : (block + 1) * _BLOCK])
            except Exception:  # noqa: BLE001  (perhaps for a row after the version was replaced)
                self._blocks[block] = None
        return self._blocks[block]

    def _predict_exactly(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            return self._predict(self._history.rows[start:stop])
        except Exception as error:
            raise DataError(
                f"the version of '{self._model.key}' as of {self.request.as_of:%Y-%m-%d} cannot predict: {describe_error(error)}",
                hint="let the estimator accept values that it has not seen, e.g. handle_unknown='ignore'",
            ) from error

    def _predict(self, rows: pl.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
        X = rows.select(self._history.columns)
        if not hasattr(self.estimator, "predict_proba"):
            return np.asarray(self.estimator.predict(X)), None
        shares = np.asarray(self.estimator.predict_proba(X))
        by_argmax = may_predict_argmax(self.estimator)
        return argmax_class(self.estimator.classes_, shares) if by_argmax else predict_labels(self.estimator, X), shares


class FitCache:
    """Fit models on request; equal requests share one fit, also with earlier replays.

    Parameters
    ----------
    history, model
        The rows, and the model's declaration.
    folder
        The folder in which fits and rows are kept.
    processes
        The number of worker processes; with 1, models are fitted in this process.
    load_model
        A picklable function that imports the project in a worker process and returns the model.
    """

    def __init__(
        self, history: History, model: Model[..., Any], folder: Path, processes: int, load_model: Callable[[], Model[..., Any]]
    ) -> None:
        self._history, self._model, self.folder = history, model, folder
        self._identity = _identify(history, model)
        self._known: dict[str, Future[Fit]] = {}
        self._lock = threading.Lock()
        self.processes = processes
        self._pool = None if processes == 1 else self._start_pool(processes, load_model)
        self.new = 0  # fits that were not kept from an earlier replay

    def fit(self, request: FitRequest) -> Fit:
        """Return the fit of a request; wait for it if another policy has requested it."""
        fit_id = hashlib.sha256(f"{self._identity}\n{request}".encode()).hexdigest()[:24]
        with self._lock:
            if mine := fit_id not in self._known:
                self._known[fit_id] = Future()
        future = self._known[fit_id]
        if mine:
            try:
                future.set_result(self._load_or_fit(request, fit_id))
            except BaseException as error:  # noqa: BLE001  (each waiting policy raises it)
                future.set_exception(error)
        return future.result()

    def fit_all(self, requests: Sequence[FitRequest]) -> list[Fit]:
        """Return the fits of several requests, which are fitted side by side."""
        if len(requests) == 1 or self._pool is None:
            return [self.fit(request) for request in requests]
        with ThreadPoolExecutor(len(requests)) as threads:
            return list(threads.map(self.fit, requests))

    def run(self, work: Callable[..., _T], *arguments: object, what: str) -> _T:
        """Call a function of a module with the history, the model and arguments: in a worker process, or with 1 process in this one.

        Parameters
        ----------
        work, arguments
            A function, and picklable arguments after the history and the model.
        what
            What the process does, for error messages.
        """
        if self._pool is None:
            with _IN_PROCESS:
                return work(self._history, self._model, *arguments)
        try:
            return self._pool.submit(_run_in_this_worker, work, *arguments).result()
        except RuntimeError as error:  # BrokenProcessPool, also while others are submitted
            raise InstallationError(
                f"a process that {what} died: {error}",
                hint="check the free memory, or replay with --processes 1; the next replay continues with the fits that have ended",
            ) from error

    def close(self) -> None:
        """Stop the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _load_or_fit(self, request: FitRequest, fit_id: str) -> Fit:
        path = self.folder / "fits" / fit_id
        if not path.exists():
            self.new += 1
            self.run(_fit_and_store, request, path, what=f"trains '{self._model.key}' as of {request.as_of:%Y-%m-%d}")
        fit = load_fit(path, request, self._history, self._model)
        if fit.error:
            path.unlink(missing_ok=True)  # the next replay tries again
        return fit

    def _start_pool(self, processes: int, load_model: Callable[[], Model[..., Any]]) -> ProcessPoolExecutor:
        rows = self.folder / f"{self._history.digest[:24]}.arrow"
        store_history(self._history, rows)
        threads = max(1, (os.cpu_count() or 1) // processes)
        temporary = get_temp_dir()  # of this process; the standard library removes it at the end
        setup = partial(_set_up_worker, load_model, str(rows), self._history.columns, threads, temporary)
        # Forks share the imports. The process that forks has no threads: a fork with those of polars or DuckDB may hang.
        context = get_context("forkserver" if len(temporary) <= _MAX_SOCKET_FOLDER else "spawn")
        context.set_forkserver_preload(_WORKER_IMPORTS)
        return ProcessPoolExecutor(processes, mp_context=context, initializer=setup)


def load_fit(path: Path, request: FitRequest, history: History, model: Model[..., Any]) -> Fit:
    """Return the stored fit of a request from its file, whose name is the hash of the fit's inputs.

    Raises
    ------
    InstallationError
        The file cannot be read.
    """
    try:
        estimator, facts = pickle.loads(path.read_bytes())  # noqa: S301  (written by a replay of this user)
    except Exception as error:
        raise InstallationError(
            f"the stored fit '{path}' cannot be read: {type(error).__name__}: {error}", hint="delete it; the next replay refits it"
        ) from error
    return Fit(request, path.name, history, model, estimator, facts)


def _identify(history: History, model: Model[..., Any]) -> str:
    """Return a text that differs whenever fits of the same request may differ."""
    declared = model.training_set
    return json.dumps(
        [
            _FORMAT,
            history.digest,
            [repr(declared.split), declared.label, declared.event_timestamp, declared.label_known_at, repr(declared.label_copies)],
            source_hash(model.function.function),
            training_libraries(),
            [repr(model.search), repr(model.positive), model.metrics],
            _list_params(model),
        ]
    )


def _list_params(model: Model[..., Any]) -> list[dict[str, Any]]:
    """Return the default hyperparameters of a model, with which a replay trains."""
    configs = (parameter.annotation for parameter in model.function.parameters_for(Injection.CONFIG))
    return [json.loads(json.dumps(config().model_dump(), default=str)) for config in configs]


_worker: dict[str, Any] = {}  # the history and the model of this worker process


def _set_up_worker(load_model: Callable[[], Model[..., Any]], rows: str, columns: tuple[str, ...], threads: int, temporary: str) -> None:
    from threadpoolctl import threadpool_limits

    threading.Thread(target=_end_with_parent, args=(temporary,), daemon=True).start()
    os.dup2(2, 1)  # output of the model's function is none of the command's
    model = load_model()
    _worker["limits"] = threadpool_limits(threads)
    _worker["model"], _worker["temporary"] = model, temporary
    _worker["history"] = History(model.training_set, pl.read_ipc(rows), columns)


def _end_with_parent(temporary: str) -> None:
    """End this process when its parent has died: a killed replay leaves no process and no temporary files behind."""
    parent = parent_process()  # the replay, not the process that forked this one
    if parent is not None:
        parent.join()
    rmtree(temporary, ignore_errors=True)
    os._exit(1)


def _run_in_this_worker(work: Callable[..., _T], *arguments: object) -> _T:
    return work(_worker["history"], _worker["model"], *arguments)


def _fit_and_store(history: History, model: Model[..., Any], request: FitRequest, path: Path) -> None:
    """Fit a model and store the estimator with its facts; store the reason when the training fails."""
    started = time.process_time()
    estimator, found, error = None, dict[str, Any](), ""
    try:
        estimator, found = _fit_model(history, model, request, path.name)
    except MlopsError as refused:
        error = refused.message
    except Exception as raised:  # noqa: BLE001  (a model's function may raise anything)
        error = describe_error(raised, model.function.function)
    facts = {"seconds": time.process_time() - started, "rows": 0, "params": "", **found, "error": error}
    try:
        stored = pickle.dumps((estimator, facts))
    except Exception as raised:
        raise DataError(
            f"the estimator of '{model.key}' cannot be pickled, which a replay needs: {type(raised).__name__}: {raised}",
            hint="use functions of a module in place of lambdas and local functions",
        ) from raised
    write_atomically(path, stored)


def _fit_model(history: History, model: Model[..., Any], request: FitRequest, fit_id: str) -> tuple[Any, dict[str, Any]]:
    """Return the estimator that the model's function returns, the number of rows that it was fitted on, and its hyperparameters."""
    with_validation, declared = needs_validation(model), model.training_set
    splits = history.split(request.as_of, request.window, request.rows, judge_on=request.judge_on, with_validation=with_validation)
    refuse_unclear_classes(f"'{model.key}'", declared.label, [part.y for part in splits.values()], model.metrics, model.positive)
    newest = splits.get("holdout", splits["train"])
    refuse_label_copies(newest.X, newest.rows[declared.label], allowed=declared.label_copies, what=f"a holdout of '{declared.key}'")
    with start_run(model.name, platform=Platform.at(_scratch_folder())), seed_globals(fit_id):
        params = json.loads(request.params) if request.params else _search(model, splits) if model.search else {}
        estimator = call_recorded(model.function.function, splits, params)
    refuse_without_predict(model, estimator)
    return estimator, {
        "fitted": FittedRows.from_rows(splits["train"].rows, ("train",), declared),
        "rows": len(splits["train"].y),
        "params": json.dumps(dict(params), default=str) if model.search else "",
    }


def _scratch_folder() -> Path:
    """Return the folder of a tracker of this process, for what model functions log; it is deleted when the replay ends."""
    import tempfile

    if "scratch" not in _worker:
        _worker["scratch"] = tempfile.TemporaryDirectory(dir=_worker.get("temporary"))
    return Path(_worker["scratch"].name)


def _search(model: Model[..., Any], splits: Mapping[str, Split]) -> Mapping[str, Any]:
    """Return the best hyperparameters of the model's search, whose trials run one after the other."""
    from dataclasses import replace

    assert model.search is not None  # noqa: S101  (for the type checker)
    metric = model.search.metric or model.metrics[0]

    def run_round(proposed: Sequence[Trial], _: Sequence[Trial]) -> list[Trial]:
        return [replace(trial, **_run_proposed_trial(trial)) for trial in proposed]

    def _run_proposed_trial(trial: Trial) -> dict[str, Any]:
        try:
            estimator = call_recorded(model.function.function, splits, trial.params)
            return {"value": score_trial(estimator, splits, metric, model.positive)}
        except Exception as error:  # noqa: BLE001  (hyperparameters that the function cannot take: the search continues)
            return {"error": str(error)}

    return best_trial(run_trials(model.search, run_round), f"'{model.key}'").params
