"""On-demand features: functions of columns as numpy arrays, run by the same code in batch and in requests."""

from __future__ import annotations

import ast
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.user_code.user_errors import translate_error
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


def apply_on_demand(functions: Sequence[Callable[..., Any]], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute on-demand features.

    Parameters
    ----------
    functions
        Each takes columns by name and returns a dict of arrays of the same length.
    columns
        Arrays of shape (rows,); times as ``datetime64[us]`` in UTC.

    Returns
    -------
    dict
        Feature name → array of shape (rows,), in the order of the functions.

    Raises
    ------
    DataError
        A column is missing, a function fails or does not return named arrays of the right length, or two functions return the same name.
    """
    features: dict[str, np.ndarray] = {}
    rows = len(next(iter(columns.values()))) if columns else 0
    for function in functions:
        for name, values in _call_function(function, columns).items():
            array = np.asarray(values)
            if array.shape != (rows,):
                raise DataError(
                    f"on-demand feature '{name}' of '{_function_name(function)}' has shape {array.shape} for {rows} rows",
                    hint="return one value for each row",
                )
            if name in features:
                raise DataError(
                    f"two on-demand functions return a feature '{name}'; the second is '{_function_name(function)}'",
                    hint="rename one of them",
                )
            features[name] = array
    return features


def _call_function(function: Callable[..., Any], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    parameters = parameter_names(function)
    if missing := [name for name in parameters if name not in columns]:
        raise DataError(
            f"on-demand features '{_function_name(function)}' need the column '{missing[0]}'",
            hint=f"the available columns are {', '.join(columns)}",
        )
    try:
        result = function(**{name: columns[name] for name in parameters})
    except Exception as error:
        if (
            explained := translate_error(error, function, f"on-demand features '{_function_name(function)}'", lambda: parameters)
        ) is not None:
            raise explained from error
        raise
    if not isinstance(result, dict):
        raise DataError(
            f"on-demand features '{_function_name(function)}' returned {type(result).__name__}",
            hint="return a dict of feature name to array",
        )
    return result


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of a function: the columns that it reads."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _function_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))


def columns_as_arrays(frame: pl.DataFrame, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return column → numpy array, times as ``datetime64[us]`` in UTC; names that the frame lacks are skipped."""
    return {name: _to_array(frame[name]) for name in names if name in frame.columns}


def _to_array(series: pl.Series) -> np.ndarray:
    if isinstance(series.dtype, pl.Datetime):
        return series.dt.cast_time_unit("us").to_physical().to_numpy().astype("datetime64[us]")
    return series.to_numpy()


def load_functions(source: str, names: Sequence[str]) -> tuple[Callable[..., Any], ...]:
    """Run the source of a module and return its functions, so that a service runs exactly the code that a version stored.

    Parameters
    ----------
    source
        The module's text.
    names
        The functions to return, in this order.
    """
    module = types.ModuleType("mlops_stored_features")
    exec(compile(source, "<stored features>", "exec"), module.__dict__)  # noqa: S102  (the registry verified these bytes; they are the project's own code)
    return tuple(getattr(member := getattr(module, name), "function", member) for name in names)


def find_foreign_imports(source: str) -> frozenset[str]:
    """Return the packages that a module imports, except numpy, the standard library and this package.

    A relative import is returned as its dots.
    """
    allowed = {*sys.stdlib_module_names, "numpy", "mlops_assets"}
    return frozenset(name for name in _find_imports(ast.parse(source)) if name not in allowed)


def _find_imports(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level if node.level else (node.module or "").split(".")[0]
