"""Describe functions whose result is determined by their arguments alone, so that the result for the same arguments can be reused.

Only functions that can be understood completely are described: they use their parameters, constants, and the packages of
:data:`PURE_PACKAGES`. A call of another function, a clock, random numbers, files or a class make a function too complex.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from datetime import date, time, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.api import NameSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PURE_PACKAGES = frozenset({"polars", "numpy", "datetime", "math"})
_PURE_BUILTINS = frozenset(
    [
        "abs",
        "all",
        "any",
        "bool",
        "dict",
        "enumerate",
        "float",
        "frozenset",
        "int",
        "isinstance",
        "len",
        "list",
        "map",
        "max",
        "min",
        "range",
        "reversed",
        "round",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
        "zip",
    ]
)
_IMPURE_PREFIXES = ("read", "scan", "write", "sink", "load", "save", "rand", "from_file", "fromfile", "tofile", "genfrom", "empty", "_")
_IMPURE_NAMES = frozenset(
    [
        "now",
        "utcnow",
        "today",
        "timestamp",
        "fromtimestamp",
        "astimezone",
        "ctime",
        "sample",
        "shuffle",
        "permutation",
        "choice",
        "memmap",
        "fromregex",
        "sql",
        "SQLContext",
        "Config",
        "plugins",
    ]
)
_TOO_COMPLEX = (ast.Global, ast.Nonlocal, ast.ClassDef, ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
_MISSING = object()


def describe_pure_function(function: Callable[..., Any]) -> str | None:
    """Return a text that changes with everything that determines the results of a function; None unless its arguments do.

    The text has the code and the values of the constants that it uses.

    Parameters
    ----------
    function
        A function that is defined in a file.
    """
    node = _read_function(function)
    if node is None or not _is_understood(node):
        return None
    constants: dict[str, str] = {}
    local, values = set(_bound_names(node)), function.__globals__
    bases = {id(inner.value): inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
    for inner in (each for statement in node.body for each in ast.walk(statement)):
        if not isinstance(inner, ast.Name) or inner.id in local:
            continue
        constant = _describe_global(inner.id, bases.get(id(inner)), values)
        if constant is None:
            return None
        constants |= constant
    return f"{ast.dump(node)} {sorted(constants.items())}"


def _read_function(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """Return the definition of a plain function without its decorators and annotations; None for any other callable."""
    if (
        not inspect.isfunction(function)
        or hasattr(function, "__wrapped__")
        or function.__closure__
        or function.__kwdefaults__
        or function.__defaults__
    ):
        return None
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError, IndexError):
        return None
    if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        return None
    arguments = ast.arguments([], [ast.arg(name) for name in inspect.signature(function).parameters], None, [], [], None, [])
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return ast.FunctionDef(node.name, arguments, body, [], None)


def _is_understood(node: ast.FunctionDef) -> bool:
    """Return whether the code has no statement or name that may make the result depend on more than the arguments."""
    for inner in ast.walk(node):
        if isinstance(inner, _TOO_COMPLEX):
            return False
        if isinstance(inner, ast.Attribute) and (_is_impure(inner.attr) or _is_registered(inner.attr)):
            return False
        if isinstance(inner, ast.Constant) and inner.value in {"now", "today"}:  # a time, for numpy
            return False
        if isinstance(inner, ast.Import) and not all(_is_pure_module(alias.name) for alias in inner.names):
            return False
        if isinstance(inner, ast.ImportFrom):
            names = [f"{inner.module}.{alias.name}" for alias in inner.names]
            if inner.level or not all(_is_pure_module(name) for name in names):
                return False
    return True


def _is_impure(name: str) -> bool:
    return name in _IMPURE_NAMES or name.startswith(_IMPURE_PREFIXES)


def _is_registered(name: str) -> bool:
    """Return whether a name is a namespace that a user has added to polars, with code that is not read here."""
    return any(isinstance(vars(cls).get(name), NameSpace) for cls in (pl.DataFrame, pl.LazyFrame, pl.Expr, pl.Series))


def _is_pure_module(name: str) -> bool:
    package, *rest = name.split(".")
    return package in PURE_PACKAGES and not any(map(_is_impure, rest))


def _bound_names(node: ast.FunctionDef) -> Iterator[str]:
    """Yield the names that a function binds: parameters, variables and imports, also in functions and comprehensions inside it."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.arg):
            yield inner.arg
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            yield inner.id
        elif isinstance(inner, ast.FunctionDef) and inner is not node:
            yield inner.name
        elif isinstance(inner, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.split(".")[0] for alias in inner.names)


def _describe_global(name: str, attribute: str | None, values: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the constant that a global name, or an attribute of a module, stands for; empty for a pure package, None for any other value."""
    value = values.get(name, _MISSING)
    if value is _MISSING:
        return {} if name in _PURE_BUILTINS and hasattr(builtins, name) else None
    if isinstance(value, ModuleType):
        if _is_pure_module(value.__name__):
            return {}
        name, value = f"{name}.{attribute}", getattr(value, attribute or "", _MISSING)
    elif isinstance(value, type) and value.__module__ == "datetime":
        return {}
    return {name: repr(value)} if _is_constant(value) else None


def _is_constant(value: object) -> bool:
    """Return whether a value cannot change and has one text in every process."""
    if isinstance(value, tuple):
        return type(value) is tuple and all(map(_is_constant, value))
    return value is None or type(value) in {bool, int, float, str, bytes, date, time, timedelta}
