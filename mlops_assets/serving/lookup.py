"""The inputs of a model, from the rows of a request: looked-up features, on-demand features, columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.on_demand import apply
from mlops_assets.serving.schema import EPOCH, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.serving.schema import Rows
    from mlops_assets.stores.online import OnlineStore


@dataclass(frozen=True)
class Inputs:
    """``X`` of some rows.

    Parameters
    ----------
    columns
        The columns of ``X``, in order, each a list of one value for each row; times are microseconds since 1970 in UTC.
    missing
        For each row the looked-up features that were not found, or past their ttl, or null.
    """

    columns: list[Sequence[Any]]
    missing: list[list[str]]


class InputBuilder:
    """Makes ``X`` in the steps that the stored model names.

    Parameters
    ----------
    manifest
        Of the stored model.
    functions
        Its on-demand functions, in the order of its steps.
    online
        Where features are looked up; None when it looks up none.
    """

    def __init__(self, manifest: Mapping[str, Any], functions: Sequence[Callable[..., Any]], online: OnlineStore | None) -> None:
        self._columns = tuple(manifest["columns"])
        kinds = {name: _kind(dtype) for name, dtype in manifest["types"].items()} | {f["name"]: f["type"] for f in manifest["request"]}
        self._dtypes = {name: np.dtype(dtype.lower()) for name, dtype in manifest["types"].items() if _kind(dtype) in ("int", "float")}
        self._kinds = kinds
        waiting = iter(functions)
        self._steps = [
            _Lookup(step, online, kinds) if "view" in step else _Function(next(waiting), step["parameters"]) for step in manifest["steps"]
        ]

    def __call__(self, rows: Rows) -> Inputs:
        """Return the inputs of rows.

        Raises
        ------
        RequestError
            An on-demand function cannot compute them.
        """
        values: dict[str, Any] = dict(rows.columns)
        missing: list[list[str]] = [[] for _ in range(rows.count)]
        for step in self._steps:
            if isinstance(step, _Lookup):
                step(values, rows.at, missing)
            else:
                values.update(step({name: self._array(name, values[name]) for name in step.parameters}))
        return Inputs([_listed(values[name]) for name in self._columns], missing)

    def _array(self, name: str, values: Any) -> np.ndarray:  # noqa: ANN401  (a list, or an array that another function made)
        """Return what the training step would have given the function: see :func:`columns_as_arrays`."""
        if isinstance(values, np.ndarray):
            return values
        kind = self._kinds[name]
        if kind == "datetime":
            return np.array([np.datetime64("NaT") if v is None else v for v in values], dtype="datetime64[us]")
        if kind == "str" or (kind == "bool" and None in values):
            return np.array(values, dtype=object)
        if kind == "bool":
            return np.array(values, dtype=bool)
        whole = kind == "int" and None not in values
        dtype = self._dtypes.get(name, np.dtype(np.int64 if whole else np.float64))
        return np.array(values, dtype=dtype if whole or dtype.kind == "f" else np.float64)


class _Lookup:
    """Features of one view, by entity and time."""

    def __init__(self, step: Mapping[str, Any], online: OnlineStore | None, kinds: Mapping[str, str]) -> None:
        self.view, self.features = step["view"], tuple(step["features"])
        self._online, self._keys = online, tuple(step["join_keys"])
        self._times = tuple(kinds.get(key) == "datetime" for key in self._keys)
        self._ttl = None if step["ttl"] is None else round(step["ttl"] * 1_000_000)
        self._defaults = tuple(step["defaults"].get(name) for name in self.features)
        self._nothing = (None,) * len(self.features)

    def __call__(self, values: dict[str, Any], at: Sequence[int], missing: list[list[str]]) -> None:
        """Add the features to ``values`` and the names of those that are missing to ``missing``."""
        found = self._read(values, at)
        complete = [self._complete(row, missing[i]) for i, row in enumerate(found)]
        values.update(zip(self.features, zip(*complete, strict=True) if complete else ([] for _ in self.features), strict=True))

    def _read(self, values: Mapping[str, Any], at: Sequence[int]) -> list[tuple[Any, ...]]:
        if self._online is None:
            return [self._nothing] * len(at)
        keys = [
            [value if value is None else EPOCH + timedelta(microseconds=value) for value in values[key]] if time else values[key]
            for key, time in zip(self._keys, self._times, strict=True)
        ]
        found = self._online.read(self.view, list(zip(*keys, strict=True)), at)
        return [
            self._nothing if row is None or (self._ttl is not None and time - row[0] > self._ttl) else row[1]
            for row, time in zip(found, at, strict=True)
        ]

    def _complete(self, row: tuple[Any, ...], missing: list[str]) -> tuple[Any, ...]:
        """Put declared defaults where a value is null or NaN, and name it."""
        absent = [i for i, value in enumerate(row) if value is None or value != value]  # noqa: PLR0124  (NaN)
        if not absent:
            return row
        missing.extend(self.features[i] for i in absent)
        filled = list(row)
        for i in absent:
            filled[i] = self._defaults[i]
        return tuple(filled)


class _Function:
    """One on-demand function."""

    def __init__(self, function: Callable[..., Any], parameters: Sequence[str]) -> None:
        self._function, self.parameters = [function], tuple(parameters)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return its features; what goes wrong in it is told without the values that it was given."""
        try:
            return apply(self._function, arrays)
        except Exception as error:
            name = getattr(self._function[0], "__name__", "function")
            raise RequestError(
                f"the on-demand features '{name}' cannot be computed for these rows ({type(error).__name__})",
                hint="send what the model was trained on; nulls may be what the function does not expect",
            ) from error


def _kind(dtype: str) -> str:
    if dtype.startswith("Datetime"):
        return "datetime"
    if dtype.startswith(("Int", "UInt")):
        return "int"
    return "float" if dtype.startswith("Float") else "bool" if dtype == "Boolean" else "str"


def _listed(values: Any) -> Sequence[Any]:  # noqa: ANN401  (a list or an array)
    if not isinstance(values, np.ndarray):
        return values  # type: ignore[no-any-return]
    if values.dtype.kind == "M":
        whole = values.astype("datetime64[us]").astype(np.int64).tolist()
        return [None if absent else value for value, absent in zip(whole, np.isnat(values).tolist(), strict=True)]
    return values.tolist()  # type: ignore[no-any-return]
