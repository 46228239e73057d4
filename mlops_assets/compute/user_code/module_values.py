"""Canonical text of module-level values for fingerprints: equal in every process and project folder."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import logging
import os
import re
import threading
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

_PLAIN = (type(None), bool, int, float, complex, bytes, Decimal, Fraction, date, time, timedelta, tzinfo, UUID, range)
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
# Values that do not change a result: loggers, locks, and objects of packages whose declarations have an identity of their own.
_IGNORED = (logging.Logger, logging.LoggerAdapter, type(threading.Lock()), type(threading.RLock()))
_IGNORED_PACKAGES = ("mlops_assets", "dagster", "pandera")
_TYPING = (types.GenericAlias, types.UnionType, typing.TypeVar)
_MAX_DEPTH = 20


class UnrecordableError(TypeError):
    """Raised for a value whose representation differs between processes, so that it cannot be fingerprinted."""


def canonicalise_value(value: object, folder: str, *, depth: int = 0) -> str:  # noqa: PLR0911  (one for each kind of value)
    """Return the canonical text of a value for a fingerprint; empty for a value that does not affect results, such as a logger.

    Parameters
    ----------
    value
        The value of a module-level name.
    folder
        The folder of the project; paths within the folder become relative to it.
    depth
        The nesting depth of the value within other values.

    Raises
    ------
    UnrecordableError
        The value, or a value within it, has a type without a canonical text, or is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise UnrecordableError

    def canonicalise(each: object) -> str:
        return canonicalise_value(each, folder, depth=depth + 1)

    kind = type(value)
    if _is_ignored(value, kind):
        return ""
    if isinstance(value, enum.Enum):
        return f"{kind.__qualname__}.{value.name}"
    if isinstance(value, (str, PurePath)):
        return f"{'str' if isinstance(value, str) else 'path'}:{_make_relative(value, folder)!r}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{canonicalise(k)}:{canonicalise(v)}" for k, v in value.items())) + "}"
    if isinstance(value, AbstractSet):
        return "{" + ",".join(sorted(map(canonicalise, value))) + "}"
    if isinstance(value, (list, tuple)) or (isinstance(value, Sequence) and kind.__module__ == "collections"):
        return f"{kind.__name__}[{','.join(map(canonicalise, value))}]"
    return _canonicalise_object(value, kind, canonicalise)


def _is_ignored(value: object, kind: type) -> bool:
    return isinstance(value, _IGNORED) or kind.__module__.partition(".")[0] in _IGNORED_PACKAGES


def _make_relative(value: str | PurePath, folder: str) -> str:
    """Return a text or path with the project's folder replaced by ``<project>``; the path of a parent folder becomes relative."""
    text = str(value)
    if isinstance(value, PurePath) and len(text) > 1 and folder.startswith(f"{text}{os.sep}"):
        return os.path.relpath(text, folder)
    return text.replace(folder, "<project>")


def _canonicalise_object(value: Any, kind: type, canonicalise: Callable[[object], str]) -> str:  # noqa: ANN401, PLR0911  (any value)
    """Return the canonical text of an object: the name of a function, the content of a pattern, array, frame or other object."""
    if isinstance(value, re.Pattern):
        return f"re:{value.pattern!r}:{value.flags}"
    if isinstance(value, functools.partial):
        return f"partial({canonicalise(value.func)},{canonicalise(value.args)},{canonicalise(value.keywords)})"
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} of {canonicalise(value.__self__)}"
    if isinstance(value, _NAMED):
        closure = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        return (
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}{canonicalise(closure) if closure else ''}"
        )
    if isinstance(value, _TYPING) or kind.__module__ == "typing":
        return repr(value)
    if kind.__module__.partition(".")[0] in _LIBRARIES:
        return _LIBRARIES[kind.__module__.partition(".")[0]](value, canonicalise)
    if dataclasses.is_dataclass(value):
        return f"{kind.__qualname__}{canonicalise({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})}"
    if hasattr(value, "model_dump"):  # pydantic
        return f"{kind.__qualname__}{canonicalise(value.model_dump())}"
    if (state := _read_object_state(value, kind)) is not None and "site-packages" not in _class_file(kind):
        return f"{kind.__qualname__}{canonicalise(state)}"
    raise UnrecordableError


def _read_object_state(value: object, kind: type) -> dict[str, object] | None:
    """Return an object's attributes, including those in ``__slots__``; None for an object that cannot have attributes."""
    slots = [
        name for base in kind.__mro__ for name in _list_items(vars(base).get("__slots__", ())) if name not in ("__dict__", "__weakref__")
    ]
    state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    own = getattr(value, "__dict__", None)
    return {**state, **own} if type(own) is dict else state or None


def _list_items(slots: object) -> Sequence[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)  # type: ignore[arg-type]  # names


def _class_file(kind: type) -> str:
    """Return the file of a class's module; ``site-packages`` for the standard library and for modules without a file.

    ``types.SimpleNamespace`` and ``argparse.Namespace`` hold only attributes, so they count as classes of the project.
    """
    import sys

    module = sys.modules.get(kind.__module__)
    name = kind.__module__.partition(".")[0]
    is_standard = name in sys.stdlib_module_names and name not in ("__main__", "types", "argparse")
    return "site-packages" if is_standard else str(getattr(module, "__file__", None) or "site-packages")


def _canonicalise_numpy(value: Any, canonicalise: Callable[[object], str]) -> str:  # noqa: ANN401
    if not hasattr(value, "tobytes"):
        if hasattr(value, "num") and hasattr(value, "itemsize"):  # a dtype
            return f"numpy:{value}"
        raise UnrecordableError
    if value.dtype == object:
        return f"array{value.shape}{canonicalise(value.tolist())}"
    return f"array{value.shape}{value.dtype}{hashlib.sha256(value.tobytes()).hexdigest()}"


def _canonicalise_polars(value: Any, canonicalise: Callable[[object], str]) -> str:  # noqa: ANN401
    import polars as pl

    if isinstance(value, pl.Series):
        return canonicalise(value.to_frame())
    if isinstance(value, pl.DataFrame):
        return (
            f"frame{canonicalise({name: str(dtype) for name, dtype in value.schema.items()})}{canonicalise(value.to_dict(as_series=False))}"
        )
    if isinstance(value, (pl.Expr, pl.DataType, pl.Schema)):
        return f"polars:{value}"
    raise UnrecordableError


def _canonicalise_pandas(value: Any, canonicalise: Callable[[object], str]) -> str:  # noqa: ANN401
    import pandas as pd

    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        hashed = hashlib.sha256(pd.util.hash_pandas_object(value).to_numpy().tobytes()).hexdigest()
        labels = list(value.columns) if isinstance(value, pd.DataFrame) else [value.name]
        return f"pandas{canonicalise(list(map(str, labels)))}{hashed}"
    if isinstance(value, pd.Timedelta):
        return repr(value)
    raise UnrecordableError


def _canonicalise_estimator(value: Any, canonicalise: Callable[[object], str]) -> str:  # noqa: ANN401
    """Return class and parameters of an unfitted estimator; raise UnrecordableError for a fitted one."""
    if not hasattr(value, "get_params") or any(name.endswith("_") and not name.startswith("_") for name in vars(value)):
        raise UnrecordableError
    return f"{type(value).__qualname__}{canonicalise(value.get_params(deep=False))}"


_LIBRARIES: dict[str, Callable[[Any, Callable[[object], str]], str]] = {
    "numpy": _canonicalise_numpy,
    "polars": _canonicalise_polars,
    "pandas": _canonicalise_pandas,
    "sklearn": _canonicalise_estimator,
}
