"""Check the URLs of endpoints, and the names of environment variables that hold secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from mlops_assets.errors import DefinitionError

OTLP_PATH = "/v1/traces"
_URL = re.compile(r"https?://([\w-]{1,63}(\.[\w-]{1,63})*|\[[0-9a-fA-F:.]+\])(:[1-9]\d{0,4})?(/[\w.~%/-]*)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


def is_endpoint(url: str) -> bool:
    """Return whether a text is the URL of an endpoint, without user, query and fragment.

    Parameters
    ----------
    url
        The text.
    """
    try:
        return _URL.fullmatch(url) is not None and urlsplit(url).port != 0
    except ValueError:  # of the port, or of an address in brackets
        return False


def is_variable(name: str) -> bool:
    """Return whether a text is the name of an environment variable, in upper case.

    Parameters
    ----------
    name
        The text.
    """
    return _VARIABLE.fullmatch(name) is not None


def validate_otlp(where: str, endpoint: str | None, headers_env: str | None) -> str | None:
    """Return the URL of a collector without slashes at its end; None for None.

    Parameters
    ----------
    where
        What sends spans, for error messages.
    endpoint
        The URL of the collector.
    headers_env
        The name of the environment variable with headers.

    Raises
    ------
    DefinitionError
        The URL or the name is invalid. The message quotes neither, because they may hold a key.
    """
    if headers_env is not None and (endpoint is None or not is_variable(headers_env)):
        raise DefinitionError(
            f"the otlp_headers_env of {where} "
            + ("needs an otlp_endpoint" if endpoint is None else "is not the name of an environment variable"),
            hint="name the variable in upper case, e.g. otlp_headers_env='OTEL_EXPORTER_OTLP_HEADERS', and the collector as otlp_endpoint",
        )
    if endpoint is None:
        return None
    if not is_endpoint(endpoint) or endpoint.rstrip("/").endswith(OTLP_PATH):
        raise DefinitionError(
            f"the otlp_endpoint of {where} is not the base URL of a collector",
            hint=f"give scheme, host and port, e.g. http://127.0.0.1:4318; {OTLP_PATH} is added",
        )
    return endpoint.rstrip("/")
