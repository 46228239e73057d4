"""Connect to an MLflow server, without telemetry, with short timeouts, and with errors translated into this package's errors."""

from __future__ import annotations

import os
import urllib.parse
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import InstallationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

# MLflow reads these at import and at each request; values that the user has set stay.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
PAGE_SIZE = 1000


@contextmanager
def import_mlflow() -> Iterator[Any]:
    """Import mlflow and yield the module, with warnings off in the context; raise MissingExtraError when it is not installed.

    MLflow's quiet defaults are first set in ``os.environ`` where the user has set nothing, and they stay there after the context.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
            import mlflow.pyfunc
        except ImportError as error:
            raise MissingExtraError.from_extra("mlflow", "mlflow") from error
        yield mlflow


@contextmanager
def connect(uri: str) -> Iterator[Any]:
    """Yield a client of an MLflow server.

    Parameters
    ----------
    uri
        ``http://…`` or ``https://…``.

    Raises
    ------
    InstallationError
        The address has another scheme, or the server is down or refuses a request in the context.
    MissingExtraError
        MLflow is not installed.
    """
    if urllib.parse.urlsplit(uri).scheme not in ("http", "https"):
        raise InstallationError(
            f"MLOPS_MLFLOW is '{uri}', not an http address", hint="give the address of an MLflow server: MLOPS_MLFLOW=http://host:5000"
        )
    with import_mlflow() as mlflow:
        import requests

        try:
            yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (mlflow.exceptions.MlflowException, requests.RequestException) as error:
            reason = str(error).splitlines()[0][:400]
            raise InstallationError(
                f"the MLflow server at {hide_password(uri)} failed: {reason}",
                hint="start the server, or read its log; the next mirror or import continues where this stopped",
            ) from error


def hide_password(uri: str) -> str:
    """Return an address without its user name, password, query and fragment."""
    parts = urllib.parse.urlsplit(uri)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def iterate_pages(fetch_page: Any) -> Iterator[Any]:  # noqa: ANN401  (a method of the client)
    """Yield all results of a paged search.

    Parameters
    ----------
    fetch_page
        A function that takes a page token, None for the first page, and returns the page.
    """
    token = None
    while True:
        page = fetch_page(token)
        yield from page
        token = page.token
        if not token:
            return
