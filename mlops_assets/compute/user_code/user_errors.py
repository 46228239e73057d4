"""Translate errors of polars, pandas, DuckDB and other libraries in user functions: add the place in the code and a hint.

The original error becomes the cause. Exceptions that the user's own code raises keep their type and get a note.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, MlopsError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_LIBRARIES = frozenset({"polars", "pandas", "duckdb", "_duckdb", "numpy", "pyarrow", "sklearn", "scipy", "lightgbm", "xgboost", "catboost"})
_PACKAGE = str(Path(__file__).parents[2])
_LIBRARY_FOLDERS = (_PACKAGE, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<")
_COMPILED_SUFFIXES = (".pyx", ".pxi", ".pxd")  # frames of compiled libraries
_MAX_TEXT = 400

_MISSING = tuple(
    re.compile(pattern)
    for pattern in (
        r'^unable to find column "(?P<name>.+?)"; valid columns: \[(?P<known>.*?)\]',
        r'^"(?P<name>.+?)" not found$',
        r'Referenced column "(?P<name>.+?)" not found in FROM clause!',
        r"'DataFrame' object has no attribute '(?P<name>\w+)'",
        r"^\"?\[?'(?P<name>[^']+)'.*?\]? not (?:in index|found in axis)\"?$",
        r"^'(?P<name>[^']+)'$",
    )
)
_NAIVE = re.compile(r"series '(?P<name>[^']*)' of dtype: Datetime\('\w+'\)")
_ZONED = re.compile(r"Datetime\('\w+', '[^']+'\)")
_PANDAS_NAIVE = re.compile(r"Invalid comparison between dtype=datetime64\[\w+\] and |[Cc]annot (?:compare|subtract) tz-naive and tz-aware")
_PANDAS_ZONED = re.compile(r"Invalid comparison between dtype=datetime64\[\w+, [^\]]+\] and ")
_SERIES_ZONE = re.compile(r"time zone .* does not match Series timezone (?P<zone>\S+)")
_TYPES = re.compile(
    r"dtypes?\b|datatypes|invalid series dtype|cannot compare|Cannot compare|conversion from|Invalid comparison|tried to convert|Expected bytes, got|explicit (?:type )?cast|Conversion Error"
)


@contextmanager
def translate_errors(function: Callable[..., Any], what: str, columns: Callable[[], Sequence[str]] = tuple) -> Iterator[None]:
    """Raise library errors inside a user function as DataError with asset, line and hint.

    Parameters
    ----------
    function
        The function of the user.
    what
        Asset and partition, named in the error message.
    columns
        A function that returns the columns that the function received.

    Raises
    ------
    DataError
        A library raised an error. Errors of this package are raised unchanged; all others are raised with a note on their place.
    """
    try:
        yield
    except Exception as error:
        if (explained := translate_error(error, function, what, columns)) is not None:
            raise explained from error
        raise


def translate_error(
    error: Exception, function: Callable[..., Any], what: str, columns: Callable[[], Sequence[str]] = tuple
) -> DataError | None:
    """Return the DataError to raise in place of a library error; None for any other error, which gets a note on its place.

    Parameters
    ----------
    error
        The raised error.
    function, what, columns
        As in :func:`translate_errors`.
    """
    if isinstance(error, MlopsError):
        return None
    if not _is_library_error(error):
        error.add_note(f"raised in {what}: {find_user_line(error, function)}")
        return None
    return DataError(f"{what}: {describe_error(error, function)}", hint=find_hint(error, columns()))


def describe_error(error: BaseException, function: Callable[..., Any] | None = None) -> str:
    """Return type, short text and place of an error of a user function, in one line.

    Parameters
    ----------
    error
        The raised error.
    function
        The user's function. It is named if the traceback has no line of the user's code.
    """
    return f"{type(error).__name__}: {shorten(str(error))} ({find_user_line(error, function)})"


def shorten(text: str) -> str:
    """Return the text of an error in one line of at most 400 characters, without query plans and lists of candidate functions."""
    head, *rest = text.strip().split("\n\n")
    expression = next((part for part in rest if part.startswith("This error occurred in the following expression:")), "")
    in_expression = f" in {expression.partition(':')[2].strip()}" if expression else ""
    first = re.split(r"\n\s*(?:Candidate|LINE \d)", head)[0]
    line = " ".join((first + in_expression).split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


def find_user_line(error: BaseException, function: Callable[..., Any] | None = None) -> str:
    """Return file, line and function of the user code that raised an error.

    Parameters
    ----------
    error, function
        As in :func:`describe_error`. A query that runs after its function has returned has no line of user code: then the first line of
        the function is returned. Without a function, the text says that the error is outside of the project's code.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user_file(frame.filename)]
    if frames:
        return f"{_shorten_path(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name}"
    code = getattr(function, "__code__", None)
    if code is None:
        return "outside of the project's code"
    return f"{_shorten_path(code.co_filename)}:{code.co_firstlineno}, in the query that {code.co_name} returned"


def find_hint(error: BaseException | str, columns: Sequence[str] = ()) -> str:
    """Return a hint for an error of polars, pandas or DuckDB; for an unknown error, where to look.

    Parameters
    ----------
    error
        The raised error, or its text.
    columns
        The columns that the function received.
    """
    text = str(error).strip().split("\n\n")[0]
    for pattern in _MISSING:
        if match := pattern.search(text):
            known = re.findall(r'"(.*?)"', match.groupdict().get("known") or "")
            known = list(dict.fromkeys([*known, *columns]))
            return suggest_name(match["name"], known) + (
                f"there are {', '.join(known)}" if known else "look at the names of the columns there"
            )
    return _build_zone_hint(text) or _build_type_hint(text)


def _build_zone_hint(text: str) -> str:
    """Return a hint for a mix of times with and without a zone; empty for other errors."""
    naive, series = _NAIVE.search(text), _SERIES_ZONE.search(text)
    if (naive and _ZONED.search(text) and naive["name"] != "literal") or (series and series["zone"] == "None"):
        name = naive["name"] if naive else "…"
        return (
            f"the column has no time zone and window.start is in UTC: pl.col('{name}').dt.replace_time_zone('UTC') gives it one, "
            "or compare with window.start.replace(tzinfo=None)"
        )
    if _PANDAS_NAIVE.search(text):
        return (
            "the column has no time zone and window.start is in UTC: .dt.tz_localize('UTC') gives it one, "
            "or compare with window.start.replace(tzinfo=None)"
        )
    if (naive and _ZONED.search(text)) or series or _PANDAS_ZONED.search(text):
        return "the column has a time zone and the other side has none: give it one, e.g. datetime(2024, 1, 1, tzinfo=UTC)"
    return ""


def _build_type_hint(text: str) -> str:
    """Return a hint for a mix of types; for another error, where to look."""
    if _TYPES.search(text):
        return (
            "both sides need one type: cast one of them, e.g. pl.col('name').cast(pl.Float64), .astype('float64') or CAST(name AS DOUBLE)"
        )
    return "look at that line; the log of the run shows the whole error"


def _is_library_error(error: BaseException) -> bool:
    """Return True if the class of an error, or the last frame of its traceback, belongs to a library."""
    if type(error).__module__.split(".")[0] in _LIBRARIES:
        return True
    frames = traceback.extract_tb(error.__traceback__)
    path = Path(frames[-1].filename) if frames else Path()
    parts = path.parts
    return path.suffix in _COMPILED_SUFFIXES or ("site-packages" in parts and parts[parts.index("site-packages") + 1] in _LIBRARIES)


def _is_user_file(filename: str) -> bool:
    path = Path(filename)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not filename.startswith(_LIBRARY_FOLDERS) and not installed and path.suffix not in _COMPILED_SUFFIXES


def _shorten_path(filename: str) -> str:
    """Return a file relative to the working folder; unchanged when it is outside of it."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
