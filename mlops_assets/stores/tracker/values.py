"""What may be recorded of a run: names of one pattern, values that every database holds."""

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
_NAME = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")  # printable ASCII: nothing that only looks like another name
_PART = re.compile(r"[A-Za-z0-9_.-](?:[A-Za-z0-9_. -]*[A-Za-z0-9_.-])?")
_LONGEST_NAME, _LONGEST_PATH, _LONGEST_TEXT = 200, 250, 20_000
_LAST_STEP = 2**63 - 1


def checked_experiment(name: object) -> str:
    """Return the name of an experiment; raise DataError when it cannot be one."""
    if not isinstance(name, str) or not EXPERIMENT.fullmatch(name):
        raise DataError(
            f"an experiment cannot be named {_shown(name)}",
            hint="use letters, digits, '_', '.' and '-', a letter or digit first, at most 63 characters",
        )
    return name


def checked_name(name: object, what: str) -> str:
    """Return the name of a metric, parameter, tag or run; raise DataError when it cannot be one.

    Parameters
    ----------
    name
        Printable ASCII, at most 200 characters, no blank at its ends, and no way out of a folder.
    what
        Whose it is, for the message.
    """
    if not isinstance(name, str) or not _is_name(name):
        raise DataError(
            f"{what} cannot be named {_shown(name)}",
            hint=f"use printable ASCII, at most {_LONGEST_NAME} characters, no blank at the ends, not '/' first and no '..' between slashes",
        )
    return name


@lru_cache(4096)
def _is_name(name: str) -> bool:
    """Whether something may be so named: a metric is asked at every step."""
    return bool(_NAME.fullmatch(name)) and not _leaves(name)


def checked_path(name: object) -> str:
    """Return the name of an artifact, ``/`` between its folders; raise DataError when it cannot be one."""
    good = isinstance(name, str) and len(name) <= _LONGEST_PATH and not _leaves(name)
    if not good or not all(_PART.fullmatch(part) for part in str(name).split("/")):
        raise DataError(
            f"an artifact cannot be named {_shown(name)}",
            hint=f"use letters, digits, '_', '.', '-' and blanks within, '/' between folders, at most {_LONGEST_PATH} characters, no '..'",
        )
    return str(name)


def checked_number(value: object, name: str) -> float:
    """Return the value of a metric, NaN and infinities included; raise DataError when it is no number."""
    if type(value) is float:  # nearly always, and a protocol takes as long to ask for as the rest
        return value
    if isinstance(value, SupportsFloat) and not isinstance(value, str):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise _no_number(value, name) from error
    raise _no_number(value, name)


def checked_step(step: object, name: str) -> int:
    """Return a step as a whole number of 64 bits; raise DataError when it is none."""
    try:
        whole = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        whole = _LAST_STEP + 1
    if not -_LAST_STEP <= whole <= _LAST_STEP:
        raise DataError(f"metric '{name}' has no step {_shown(step)}", hint="a step is a whole number of at most 63 bits")
    return whole


def checked_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON holds them: numbers that are not finite as text, objects by what they print."""
    return {checked_name(name, "a parameter"): plain(value, f"parameter '{name}'") for name, value in params.items()}


def checked_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags: text to text."""
    return {checked_name(name, "a tag"): _text(str(value), f"tag '{name}'") for name, value in tags.items()}


def plain(value: object, what: str) -> Any:  # noqa: ANN401  (what JSON holds)
    """Return a value as JSON holds it.

    Parameters
    ----------
    value
        Anything; what JSON does not know becomes the text that it prints.
    what
        Whose it is, for the message.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, dict):
        return {_text(str(key), what): plain(inner, what) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, what) for inner in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy
        return plain(value.item(), what)
    return _text(value if isinstance(value, str) else repr(value), what)


def _text(value: str, what: str) -> str:
    if "\0" in value or len(value) > _LONGEST_TEXT or not _encodes(value):
        raise DataError(
            f"{what} has the value {_shown(value)}",
            hint=f"a text has at most {_LONGEST_TEXT} characters, no NUL, no half of a surrogate pair",
        )
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _leaves(name: str) -> bool:
    return name.startswith("/") or any(part in (".", "..") for part in re.split(r"[/\\]", name))


def _no_number(value: object, name: str) -> DataError:
    return DataError(f"metric '{name}' has the value {_shown(value)}, which is no number", hint="log a number; text belongs into a tag")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text) - 2} characters)"
