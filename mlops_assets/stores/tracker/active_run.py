"""The active run, to which values are logged until it ends."""

from __future__ import annotations

import io
import json
import mimetypes
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError
from mlops_assets.stores.base.process import describe_machine, identify_process
from mlops_assets.stores.tracker.run_batch import RunArtifact, RunEnd
from mlops_assets.stores.tracker.tracker import FAILED, FINISHED, RUNNING, Run
from mlops_assets.stores.tracker.values import check_name, check_number, check_params, check_path, check_step, check_tags
from mlops_assets.stores.tracker.writer import RunWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.tracker.tracker import Tracker

_current: ContextVar[ActiveRun | None] = ContextVar("mlops_run", default=None)
_MAX_ERROR_LENGTH = 4000


class ActiveRun:
    """An active run. Logged values are buffered in memory, and written every few seconds, when the buffer is full, at the end, and at exit.

    Parameters
    ----------
    run
        The recorded run.
    tracker, artifacts
        The stores that the run is written to.

    See Also
    --------
    mlops_assets.start_run : Yields the active run.
    """

    def __init__(self, run: Run, tracker: Tracker, artifacts: Artifacts) -> None:
        self.run = run
        self.last: dict[str, float] = {}  # metric → the value that was logged last
        self.params: dict[str, Any] = dict(run.params)
        self._writer, self._artifacts = RunWriter(tracker, run.id), artifacts
        self.watch: Callable[[str, float, int | None], None] | None = None  # called with name, value and step; may raise to end the run
        self._status, self._error = FINISHED, ""

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.run.id

    def log_metric(self, name: str, value: object, step: int | None = None) -> None:
        """Log a value of a metric; see :func:`mlops_assets.runs.log_metric`."""
        number = check_number(value, check_name(name, "a metric"))
        self._writer.add_metric(name, number, None if step is None else check_step(step, name))
        self.last[name] = number
        if self.watch is not None:
            self.watch(name, number, step)

    def log_metrics(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Log a value of each metric at one step."""
        for name, value in values.items():
            self.log_metric(name, value, step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; see :func:`mlops_assets.runs.log_params`."""
        checked = check_params(params)
        self._writer.update(params=checked)
        self.params |= checked

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Log tags, whose values are stored as text; the latest value of a name counts."""
        self._writer.update(tags=check_tags(tags))

    def log_artifact(self, name: str, data_or_path: bytes | str | os.PathLike[str] | Mapping[str, Any] | list[Any]) -> None:
        """Store a file or a folder; see :func:`mlops_assets.runs.log_artifact`."""
        for path, data in _collect_files(check_path(name), data_or_path):
            media = mimetypes.guess_type(path)[0] or "application/octet-stream"
            self._writer.update(artifact=RunArtifact(path, self._artifacts.put(data), len(data), media))

    def log_figure(self, name: str, figure: Any) -> None:  # noqa: ANN401  (matplotlib's or plotly's)
        """Store a figure as PNG or HTML; see :func:`mlops_assets.runs.log_figure`. A name without a suffix gets one."""
        has_no_suffix = Path(check_path(name)).suffix == ""
        data, suffix = _render_figure(figure)
        self.log_artifact(name + suffix if has_no_suffix else name, data)

    def flush(self) -> None:
        """Write the values that are buffered in memory."""
        self._writer.flush()

    def end_as(self, status: str, error: str = "") -> None:
        """Set the status and the error with which the run will end; by default ``finished``, or ``failed`` after an exception."""
        self._status, self._error = status, error

    def close(self, *, metrics: Mapping[str, float] | None = None, record: Mapping[str, Any] | None = None) -> Run:
        """Write the buffer and the end of the run in one transaction, and return the ended run. Nothing can be logged afterwards.

        Parameters
        ----------
        metrics
            Metrics of the whole run, without steps.
        record
            Entries to merge into the run's record; an entry replaces one of the same name from the start of the run.
        """
        error = self._error[:_MAX_ERROR_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        ending = RunEnd(self._status, datetime.now(UTC), error, record or {})
        self._writer.update(plain=metrics)
        self._writer.close(ending)
        last_values = dict(sorted((self.last | dict(metrics or {})).items()))
        full_record = {**self.run.record, **ending.record}
        return replace(
            self.run,
            status=ending.status,
            ended_at=ending.at,
            error=ending.error,
            params=self.params,
            metrics=last_values,
            record=full_record,
        )


def active_run() -> ActiveRun | None:
    """Return the active run of this context; None when no run is active."""
    return _current.get()


@contextmanager
def record_run(run: Run, tracker: Tracker, artifacts: Artifacts) -> Iterator[ActiveRun]:
    """Record a run as running, with its process and machine, and make it the active run.

    The caller closes the run. On an exception, the context closes the run instead: as ``failed``, unless :meth:`ActiveRun.end_as` has set
    another status. The exception is then raised again.

    Parameters
    ----------
    run
        The run at its start.
    tracker, artifacts
        The stores that the run is written to.
    """
    begun = replace(
        run, status=RUNNING, ended_at=None, record={**run.record, "process": identify_process(), "machine": dict(describe_machine())}
    )
    tracker.add(begun)
    active = ActiveRun(begun, tracker, artifacts)
    token = _current.set(active)
    try:
        yield active
    except BaseException as error:
        if active._status == FINISHED:  # noqa: SLF001  (its own module)
            active.end_as(FAILED, f"{type(error).__name__}: {error}")
        active.close()
        raise
    finally:
        _current.reset(token)


def _collect_files(name: str, value: Any) -> Iterator[tuple[str, bytes]]:  # noqa: ANN401
    """Yield path and bytes of each file of an artifact: bytes, a JSON value, a file, or all files below a folder.

    Raises
    ------
    DataError
        A file is missing or is a symbolic link, or a path within the folder is not valid.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        yield name, bytes(value)
    elif isinstance(value, (dict, list)):
        yield name, json.dumps(value, indent=2, default=str).encode()
    else:
        path = Path(value)
        if path.is_dir() and not path.is_symlink():
            for inner in sorted(path.rglob("*")):
                if not inner.is_dir() or inner.is_symlink():
                    yield check_path(f"{name}/{inner.relative_to(path).as_posix()}"), _read_file(inner, name)
        else:
            yield name, _read_file(path, name)


def _read_file(path: Path, name: str) -> bytes:
    """Return the bytes of a file; raise DataError when it is missing or a symbolic link."""
    if path.is_symlink():
        raise DataError(f"artifact '{name}' has the symbolic link '{path}'", hint="give the file itself: a link may lead to anything")
    if not path.is_file():
        raise DataError(f"artifact '{name}' has no file '{path}'", hint="give a file, a folder, or bytes")
    return path.read_bytes()


def _render_figure(figure: Any) -> tuple[bytes, str]:  # noqa: ANN401
    """Return the bytes and the suffix of a figure: PNG from matplotlib, HTML from plotly; raise DataError for anything else."""
    if hasattr(figure, "savefig"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue(), ".png"
    if hasattr(figure, "to_html"):
        return str(figure.to_html(full_html=True, include_plotlyjs=True)).encode(), ".html"
    raise DataError(f"a {type(figure).__name__} is not a figure", hint="pass a figure of matplotlib, or one with to_html, such as plotly's")
