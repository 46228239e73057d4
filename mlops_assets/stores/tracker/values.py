"""Check the names and values that a run records, so that every database can store them."""

from __future__ import annotations

import math
import operator
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, SupportsFloat

from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_NAME = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")  # printable ASCII, so that no two names look alike
_PART = re.compile(r"[A-Za-z0-9_.-](?:[A-Za-z0-9_. -]*[A-Za-z0-9_.-])?")
_MAX_NAME, _MAX_PATH, _MAX_TEXT = 200, 250, 20_000
_MAX_STEP = 2**63 - 1


def check_experiment(name: object) -> str:
    """Return the name of an experiment; raise DataError when it is not valid."""
    if not isinstance(name, str) or not EXPERIMENT.fullmatch(name):
        raise DataError(
            f"an experiment cannot be named {_shorten(name)}",
            hint="use letters, digits, '_', '.' and '-', a letter or digit first, at most 63 characters",
        )
    return name


def check_name(name: object, what: str) -> str:
    """Return the name of a metric, parameter, tag or run; raise DataError when it is not valid.

    Parameters
    ----------
    name
        Printable ASCII, at most 200 characters, without a blank at its ends. It cannot begin with ``/``, nor have ``.`` or ``..`` between
        slashes.
    what
        The noun for the error message, such as ``a metric``.
    """
    if not isinstance(name, str) or not _is_name(name):
        raise DataError(
            f"{what} cannot be named {_shorten(name)}",
            hint=f"use printable ASCII, at most {_MAX_NAME} characters, no blank at the ends, not '/' first and no '..' between slashes",
        )
    return name


@lru_cache(4096)
def _is_name(name: str) -> bool:
    """Return True if a name is valid; cached, because the name is checked at each step of a metric."""
    return bool(_NAME.fullmatch(name)) and not _escapes_folder(name)


def check_path(name: object) -> str:
    """Return the relative path of an artifact, with ``/`` between folders; raise DataError when it is not valid."""
    is_valid = isinstance(name, str) and len(name) <= _MAX_PATH and not _escapes_folder(name)
    if not is_valid or not all(_PART.fullmatch(part) for part in str(name).split("/")):
        raise DataError(
            f"an artifact cannot be named {_shorten(name)}",
            hint=f"use letters, digits, '_', '.', '-' and blanks within, '/' between folders, at most {_MAX_PATH} characters, no '..'",
        )
    return str(name)


def check_number(value: object, name: str) -> float:
    """Return the value of a metric, NaN and infinities included; raise DataError when it is not a number."""
    if type(value) is float:  # the usual case; the check of a protocol is slow
        return value
    if isinstance(value, SupportsFloat) and not isinstance(value, str):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise _build_number_error(value, name) from error
    raise _build_number_error(value, name)


def check_step(step: object, name: str) -> int:
    """Return a step as an int; raise DataError for a value that is not a whole number or does not fit 64 bits."""
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        number = _MAX_STEP + 1
    if not -_MAX_STEP <= number <= _MAX_STEP:
        raise DataError(f"metric '{name}' cannot have the step {_shorten(step)}", hint="a step is a whole number of at most 63 bits")
    return number


def check_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as :func:`to_json_value` does; raise DataError for a name or a value that is not valid."""
    return {check_name(name, "a parameter"): to_json_value(value, f"parameter '{name}'") for name, value in params.items()}


def check_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags with their values as text; raise DataError for a name or a value that is not valid."""
    return {check_name(name, "a tag"): _check_text(str(value), f"tag '{name}'") for name, value in tags.items()}


def to_json_value(value: object, what: str) -> Any:  # noqa: ANN401  (what JSON holds)
    """Return a value in a form that JSON can store.

    Parameters
    ----------
    value
        Any value. NaN and infinities become text, tuples become lists, keys become text, and other objects become their repr.
    what
        The value's owner for the error message, such as ``parameter 'depth'``.

    Raises
    ------
    DataError
        A text is longer than 20,000 characters, or cannot be stored in every database.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, dict):
        return {_check_text(str(key), what): to_json_value(inner, what) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(inner, what) for inner in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a numpy scalar
        return to_json_value(value.item(), what)
    return _check_text(value if isinstance(value, str) else repr(value), what)


def _check_text(value: str, what: str) -> str:
    if "\0" in value or len(value) > _MAX_TEXT or not _is_encodable(value):
        raise DataError(
            f"{what} has the value {_shorten(value)}, which cannot be stored",
            hint=f"a text has at most {_MAX_TEXT} characters, no NUL, no half of a surrogate pair",
        )
    return value


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escapes_folder(name: str) -> bool:
    """Return True if a name is an absolute path or has a part ``.`` or ``..``, so that as a path it could leave its folder."""
    return name.startswith("/") or any(part in (".", "..") for part in re.split(r"[/\\]", name))


def _build_number_error(value: object, name: str) -> DataError:
    return DataError(f"metric '{name}' has the value {_shorten(value)}, which is not a number", hint="log a number; set a tag for text")


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text) - 2} characters)"
