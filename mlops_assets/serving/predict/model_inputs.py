"""Build ``X`` from the rows of a request: looked-up features, on-demand features and columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlops_assets.compute.features.on_demand import apply_on_demand
from mlops_assets.compute.features.request import RENAMED_FEATURES, RENAMED_KEYS
from mlops_assets.serving.predict.request_schema import EPOCH, RequestError
from mlops_assets.stores.online.protocol import MISSING, FeatureColumns, FeatureRow, Lookup
from mlops_assets.stores.online.reader import to_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlops_assets.serving.predict.request_schema import RequestRows
    from mlops_assets.stores.online.protocol import OnlineStore


@dataclass(frozen=True)
class ModelInputs:
    """``X`` of the rows of a request.

    Parameters
    ----------
    columns
        The columns of ``X``, in order, each a list of one value for each row; times are microseconds since 1970 in UTC.
    missing
        For each row, the looked-up features that were not found, older than their ttl, or null.
    lookups
        The results of each view, for the metrics.
    """

    columns: list[Sequence[Any]]
    missing: list[list[str]]
    lookups: tuple[ViewLookup, ...] = ()


class ViewLookup(NamedTuple):
    """The results of the lookups in one view.

    Parameters
    ----------
    view
        Name of the view.
    status, age
        Status and age in microseconds of each row: see :class:`mlops_assets.stores.online.protocol.FeatureRow`; -1 for no age.
    """

    view: str
    status: Sequence[int]
    age: Sequence[int]


class InputBuilder:
    """Builds ``X`` by the steps in the manifest of a stored model: lookups in feature views and on-demand functions.

    Parameters
    ----------
    manifest
        Manifest of the stored model.
    functions
        The on-demand functions, in the order of the steps.
    online
        The online store; None for a model without lookups.
    """

    def __init__(self, manifest: Mapping[str, Any], functions: Sequence[Callable[..., Any]], online: OnlineStore | None) -> None:
        self._columns = tuple(manifest["columns"])
        kinds = {name: _json_type(dtype) for name, dtype in manifest["types"].items()} | {f["name"]: f["type"] for f in manifest["request"]}
        self._dtypes = {name: np.dtype(dtype.lower()) for name, dtype in manifest["types"].items() if _json_type(dtype) in ("int", "float")}
        self._kinds = kinds
        next_functions = iter(functions)
        steps = [
            _ViewStep(step, kinds) if "view" in step else _OnDemandStep(next(next_functions), step["parameters"])
            for step in manifest["steps"]
        ]
        self._steps = [
            input_step
            for are_views, group in groupby(steps, lambda step: isinstance(step, _ViewStep))
            for input_step in (_group_lookups(group, online) if are_views else group)
        ]

    @property
    def lookup_count(self) -> int:
        """The number of features that are looked up for each row."""
        return sum(step.lookup_count for step in self._steps if isinstance(step, _OnlineLookups))

    def __call__(self, rows: RequestRows) -> ModelInputs:
        """Return ``X`` of the rows, with the missing features of each row.

        Raises
        ------
        RequestError
            An on-demand function fails on the rows.
        InstallationError
            The online store cannot be read.
        """
        values: dict[str, Any] = dict(rows.columns)
        missing: list[list[str]] = [[] for _ in range(rows.count)]
        lookups: list[ViewLookup] = []
        for step in self._steps:
            if isinstance(step, _OnlineLookups):
                lookups.extend(step(values, rows.at, missing))
            elif isinstance(step, _OnDemandStep):
                values.update(step({name: self._to_array(name, values[name]) for name in step.parameters}))
        return ModelInputs([_to_list(values[name]) for name in self._columns], missing, tuple(lookups))

    def _to_array(self, name: str, values: Any) -> np.ndarray:  # noqa: ANN401  (a list, or an array that another function made)
        """Return the array that the training step would have passed: see :func:`columns_as_arrays`."""
        if isinstance(values, np.ndarray):
            return values
        kind = self._kinds[name]
        if kind == "datetime":
            return np.array([np.datetime64("NaT") if v is None else v for v in values], dtype="datetime64[us]")
        if kind == "str" or (kind == "bool" and None in values):
            return np.array(values, dtype=object)
        if kind == "bool":
            return np.array(values, dtype=bool)
        is_integer = kind == "int" and None not in values
        dtype = self._dtypes.get(name, np.dtype(np.int64 if is_integer else np.float64))
        return np.array(values, dtype=dtype if is_integer or dtype.kind == "f" else np.float64)


class _ViewStep:
    """The lookup in one view, with the defaults of missing features."""

    def __init__(self, step: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
        self.view, features = step["view"], tuple(step["features"])
        self.keys, self.features = tuple(step.get(RENAMED_KEYS, step["join_keys"])), tuple(step.get(RENAMED_FEATURES, features))
        self._stored = features
        self.times = tuple(kinds.get(key) == "datetime" for key in self.keys)
        self.lookup = Lookup(self.view, features, None if step["ttl"] is None else timedelta(seconds=step["ttl"]))
        self._defaults = tuple(step["defaults"].get(name) for name in features)

    def fill_row(self, row: FeatureRow, values: dict[str, Any], missing: list[str]) -> None:
        """Add the features of one row to ``values``; for a null or NaN, use the declared default and add the feature to ``missing``."""
        for name, value, default in zip(self.features, row.values, self._defaults, strict=True):
            if value is None or value != value:  # noqa: PLR0124  (NaN)
                missing.append(name)
                values[name] = (default,)
            else:
                values[name] = (value,)

    def fill_rows(self, columns: FeatureColumns, values: dict[str, Any], missing: list[list[str]]) -> None:
        """Add the features of many rows to ``values`` and ``missing``, as :meth:`fill_row` does for one row."""
        for stored, name, default in zip(self._stored, self.features, self._defaults, strict=True):
            column, absent = columns.values[stored], columns.nulls[stored]
            if column.dtype.kind == "f":
                absent = absent | np.isnan(column)
            listed = column.tolist()
            for i in np.flatnonzero(absent).tolist():
                listed[i] = default
                missing[i].append(name)
            values[name] = listed


def _group_lookups(steps: Iterable[Any], online: OnlineStore | None) -> Iterator[_OnlineLookups]:
    """Yield lookups of consecutive views that can be read at once, because no key of a later view is a feature of an earlier one."""
    views: list[_ViewStep] = []
    for step in steps:
        if any(key in view.features for view in views for key in step.keys):
            yield _OnlineLookups(views, online)
            views = []
        views.append(step)
    yield _OnlineLookups(views, online)


class _OnlineLookups:
    """Looks up features of several views by entity and time; without an online store, every feature is missing."""

    def __init__(self, steps: Sequence[_ViewStep], online: OnlineStore | None) -> None:
        self._steps = tuple(steps)
        self.lookup_count = sum(len(step.features) for step in steps)
        self._reader = None if online is None else online.reader([step.lookup for step in steps])

    def __call__(self, values: dict[str, Any], at: Sequence[int], missing: list[list[str]]) -> Iterator[ViewLookup]:
        """Add features to ``values`` and missing ones to ``missing``; yield the results of each view."""
        if len(at) == 1:
            for step, row in zip(self._steps, self._lookup_row(values, at[0]), strict=True):
                step.fill_row(row, values, missing[0])
                yield ViewLookup(step.view, (row.status,), (-1 if row.age is None else row.age,))
        else:
            for step, columns in zip(self._steps, self._lookup_rows(values, at), strict=True):
                step.fill_rows(columns, values, missing)
                yield ViewLookup(step.view, columns.status, columns.age)  # type: ignore[arg-type]  # arrays are sequences

    def _lookup_row(self, values: Mapping[str, Any], at: int) -> Sequence[FeatureRow]:
        if self._reader is None:
            return [FeatureRow((None,) * len(step.features), MISSING, None) for step in self._steps]
        return self._reader.lookup_one([next(_iterate_keys(step, values)) for step in self._steps], at)

    def _lookup_rows(self, values: Mapping[str, Any], at: Sequence[int]) -> Sequence[FeatureColumns]:
        if self._reader is None:
            return [
                to_columns([FeatureRow((None,) * len(s.features), MISSING, None)] * len(at), dict.fromkeys(s.lookup.features, ""))
                for s in self._steps
            ]
        shared = {step.keys: list(_iterate_keys(step, values)) for step in self._steps}  # views of one entity share the work on it
        return self._reader.lookup_many([shared[step.keys] for step in self._steps], at)


def _iterate_keys(step: _ViewStep, values: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the join keys of each row, as the view stores them."""
    columns = [_to_times(values[key]) if time else values[key] for key, time in zip(step.keys, step.times, strict=True)]
    return zip(*columns, strict=True)


def _to_times(values: Sequence[int | None]) -> list[datetime | None]:
    return [None if value is None else EPOCH + timedelta(microseconds=value) for value in values]


class _OnDemandStep:
    """Computes the features of one on-demand function."""

    def __init__(self, function: Callable[..., Any], parameters: Sequence[str]) -> None:
        self._function, self.parameters = [function], tuple(parameters)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the computed features, or raise RequestError, whose message repeats no value of the request."""
        try:
            return apply_on_demand(self._function, arrays)
        except Exception as error:
            name = getattr(self._function[0], "__name__", "function")
            raise RequestError(
                f"the on-demand features '{name}' cannot be computed for these rows ({type(error.__cause__ or error).__name__})",
                hint="check the rows for nulls, and for other values that did not occur in training",
            ) from error


def _json_type(dtype: str) -> str:
    """Return the type of a request's field for a polars type; ``str`` where no other type fits."""
    if dtype.startswith("Datetime"):
        return "datetime"
    if dtype.startswith(("Int", "UInt")):
        return "int"
    return "float" if dtype.startswith("Float") else "bool" if dtype == "Boolean" else "str"


def _to_list(values: Any) -> Sequence[Any]:  # noqa: ANN401  (a list or an array)
    """Return values as a list; times of an array become microseconds since 1970, and NaT becomes None."""
    if not isinstance(values, np.ndarray):
        return values  # type: ignore[no-any-return]
    if values.dtype.kind == "M":
        integers = values.astype("datetime64[us]").astype(np.int64).tolist()
        return [None if absent else value for value, absent in zip(integers, np.isnat(values).tolist(), strict=True)]
    return values.tolist()  # type: ignore[no-any-return]
