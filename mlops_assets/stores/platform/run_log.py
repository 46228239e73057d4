"""Start and search runs, and log metrics, parameters, files and figures to the active run, in a training, notebook or script."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import RegistryError
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.tracker.active_run import active_run, record_run
from mlops_assets.stores.tracker.tracker import RUNNING, Run
from mlops_assets.stores.tracker.values import check_experiment, check_name, check_params, check_tags
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    import polars as pl

    from mlops_assets.stores.tracker.active_run import ActiveRun


@check_arguments
@contextmanager
def start_run(  # noqa: PLR0913  (a flat call reads best in a notebook)
    experiment: str,
    *,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    parent: str | None = None,
    platform: Platform | None = None,
) -> Iterator[ActiveRun]:
    """Record a run of a notebook or script; the ``log_`` functions within the block log to it.

    Parameters
    ----------
    experiment
        The name of the experiment that the run belongs to.
    name
        A label for people.
    params, tags
        Parameters and tags that are known at the start; more may be logged later.
    parent
        The id of the parent run; when None, the enclosing active run, if any.
    platform
        The platform that records the run; ``Platform.from_env()`` when None.

    Yields
    ------
    ActiveRun
        The run: its ``id``, and the ``log_`` functions as methods, for your own threads and processes.

    Raises
    ------
    DataError
        A name or value cannot be recorded.

    See Also
    --------
    runs.log_metric : Log a metric of the run.
    runs.search : Find runs.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> platform = ml.Platform.at(tempfile.mkdtemp())
    >>> with ml.start_run("lateness", params={"depth": 3}, platform=platform):
    ...     for step in range(10):
    ...         ml.runs.log_metric("loss", 1 / (step + 1), step=step)
    >>> ml.runs.search("metrics.loss < 0.2", platform=platform)["metrics.loss"].to_list()
    [0.1]
    """
    enclosing, target_platform = active_run(), platform or Platform.from_env()
    stores = open_stores(target_platform)
    run = Run(
        id=uuid.uuid4().hex,
        model=check_experiment(experiment),
        fingerprint="",
        dagster_run_id="",
        started_at=datetime.now(UTC),
        ended_at=None,
        snapshot=None,
        params=check_params(params or {}),
        metrics={},
        record={},
        environment=target_platform.environment,
        kind="run",
        status=RUNNING,
        name=check_name(name, "a run") if name else "",
        parent_id=parent or (enclosing.id if enclosing else None) or None,
        tags=check_tags(tags or {}),
    )
    with record_run(run, stores.tracker, stores.artifacts) as active:
        yield active
        active.close()


@check_arguments
def search(where: str = "", *, order_by: str = "", limit: int | None = None, platform: Platform | None = None) -> pl.DataFrame:
    """Return runs as a frame, one row each; active runs whose process has ended are first marked as killed.

    Parameters
    ----------
    where
        E.g. ``"experiment = 'lateness' and metrics.roc_auc > 0.7 and params.depth >= 3 and tags.team = 'x'"``; every run when empty.
        Names with other characters than letters, digits, ``_ . / -`` stand in double quotes.
    order_by
        E.g. ``"metrics.roc_auc desc"``. Runs without the metric or parameter come last. When empty, the newest run comes first.
    limit
        The maximum number of runs; all when None.
    platform
        The platform whose runs to search; ``Platform.from_env()`` when None.

    Returns
    -------
    polars.DataFrame
        Columns of the run, then ``params.…``, ``metrics.…`` (the last values) and ``tags.…``.

    Raises
    ------
    RegistryError
        The filter or order cannot be parsed, or names a metric, parameter or tag that no run has; the hint suggests a similar name. If no
        run is recorded, the frame is empty instead.

    See Also
    --------
    start_run : Record a run.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> ml.runs.search("status = 'finished'", platform=ml.Platform.at(tempfile.mkdtemp())).height
    0
    """
    return open_stores(platform or Platform.from_env()).tracker.frame(where, order_by, limit)


@check_arguments
def log_metric(name: str, value: float, step: int | None = None) -> None:
    """Log a value of a metric of the active run, in a model function or within :func:`start_run`.

    Parameters
    ----------
    name
        Printable ASCII, at most 200 characters.
    value
        A number, including NaN and infinities.
    step
        A whole number. When None, one more than the highest step so far. Steps may be logged in any order; searches use the value at the
        highest step.

    Raises
    ------
    RegistryError
        There is no active run.
    DataError
        The name or the value cannot be recorded.

    See Also
    --------
    log_params : Log parameters of the run.
    mlops_assets.start_run : Start a run in a notebook or script.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> with ml.start_run("lateness", platform=ml.Platform.at(tempfile.mkdtemp())):
    ...     ml.runs.log_metric("roc_auc", 0.71)
    """
    _require_active_run("log_metric").log_metric(name, value, step)


@check_arguments
def log_params(params: Mapping[str, Any]) -> None:
    """Log parameters of the active run; the latest value of a name counts.

    Parameters
    ----------
    params
        Numbers, texts, booleans, lists and mappings; anything else is stored as its repr.

    Raises
    ------
    RegistryError
        There is no active run.
    DataError
        A name or a value cannot be recorded.

    See Also
    --------
    log_metric : Log a metric of the run.
    mlops_assets.start_run : Start a run in a notebook or script.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> with ml.start_run("lateness", platform=ml.Platform.at(tempfile.mkdtemp())):
    ...     ml.runs.log_params({"depth": 3, "columns": ["carrier", "origin"]})
    """
    _require_active_run("log_params").log_params(params)


@check_arguments
def log_artifact(name: str, data_or_path: bytes | str | os.PathLike[str] | Mapping[str, Any] | list[Any]) -> None:
    """Store a file, or the files of a folder, with the active run; equal content is stored once.

    Parameters
    ----------
    name
        The name of the file or folder within the run, with ``/`` between folders.
    data_or_path
        Bytes; a path to a file or folder, as text or path; or a mapping or list, which is stored as JSON. Symbolic links are refused.

    Raises
    ------
    RegistryError
        There is no active run.
    DataError
        The name is not valid, the file does not exist, or it is a symbolic link.
    InstallationError
        The file cannot be stored, e.g. because the disk is full; no partial file remains.

    See Also
    --------
    log_figure : Log a figure of the run.
    mlops_assets.start_run : Start a run in a notebook or script.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> with ml.start_run("lateness", platform=ml.Platform.at(tempfile.mkdtemp())):
    ...     ml.runs.log_artifact("notes.txt", b"trained on January")
    ...     ml.runs.log_artifact("columns.json", ["carrier", "origin"])
    """
    _require_active_run("log_artifact").log_artifact(name, data_or_path)


@check_arguments
def log_figure(name: str, figure: Any) -> None:  # noqa: ANN401  (matplotlib's or plotly's)
    """Store a figure with the active run: matplotlib's as PNG, plotly's as a self-contained HTML page.

    Parameters
    ----------
    name
        As in :func:`log_artifact`; ``.png`` or ``.html`` is added when it has no ending.
    figure
        An object with ``savefig`` or ``to_html``.

    Raises
    ------
    RegistryError
        There is no active run.
    DataError
        The name is not valid, or the object is not a figure.

    See Also
    --------
    log_artifact : Log a file of the run.
    mlops_assets.start_run : Start a run in a notebook or script.

    Examples
    --------
    >>> import tempfile
    >>> from matplotlib.figure import Figure
    >>> import mlops_assets as ml
    >>> figure = Figure()
    >>> with ml.start_run("lateness", platform=ml.Platform.at(tempfile.mkdtemp())):
    ...     ml.runs.log_figure("errors", figure)
    """
    _require_active_run("log_figure").log_figure(name, figure)


def _require_active_run(function: str) -> ActiveRun:
    """Return the active run; raise RegistryError with the name of the called function when there is none."""
    active = active_run()
    if active is None:
        raise RegistryError(
            f"{function} was called outside of a run",
            hint="call it within a model function, or within `with ml.start_run('experiment'):`; in your own threads, call the methods of the run",
        )
    return active
