"""Find values that a class or function holds in addition to its code, and functions that cache what they read."""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONTAINERS = ("dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque")  # containers that a program fills
_READING_NAMES = ("open", "read_text", "read_bytes", "getenv", "environ")
_QUERY_METHODS = ("sql", "query", "execute")
_FILE_IN_SQL = re.compile(r"'[^']+\.(?:csv|tsv|parquet|json|ndjson|jsonl|db)[^']*'|\bread_\w+\s*\(", re.IGNORECASE)


def is_computed(node: ast.stmt) -> bool:
    """Return True if a statement computes values that its code does not show.

    False for definitions of functions and classes, and for an assigned literal or empty container such as ``defaultdict(list)``.
    """
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    assigned = getattr(node, "value", None) if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    if isinstance(assigned, ast.Call) and not assigned.keywords and isinstance(assigned.func, (ast.Name, ast.Attribute)):
        name = assigned.func.id if isinstance(assigned.func, ast.Name) else assigned.func.attr
        return name not in _CONTAINERS or any(not isinstance(argument, ast.Name) for argument in assigned.args)
    try:
        ast.literal_eval(assigned or ast.Name("computed"))
    except (ValueError, TypeError, MemoryError, RecursionError):
        return True
    return False


def iterate_held_values(node: ast.stmt, value: Any) -> Iterator[tuple[Mapping[str, Any], bool]]:  # noqa: ANN401  (what a name is bound to)
    """Yield name → value for values that a class or function holds and its code does not show, and whether all of them count as used.

    The values are computed attributes of a class, and computed defaults and attributes of a function. If the flag is False, only
    attributes that the project's code names count as used. Other statements yield nothing.

    Parameters
    ----------
    node
        The statement that binds the name.
    value
        The value of the name, which a decorator may have replaced.
    """
    if isinstance(node, ast.ClassDef) and isinstance(value, type):
        computed = [
            inner
            for inner in node.body
            if isinstance(inner, (ast.Assign, ast.AnnAssign)) and inner.value is not None and is_computed(inner)
        ]
        names = {n.id for inner in computed for n in ast.walk(inner) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        yield {name: getattr(value, name) for name in sorted(names) if name in vars(value)}, False
    function = inspect.unwrap(value) if callable(value) else None
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and inspect.isfunction(function):
        defaults = (*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None))
        if any(is_computed(ast.Assign([], default)) for default in defaults):
            yield {"defaults": (function.__defaults__, function.__kwdefaults__)}, True
        yield {name: attribute for name, attribute in sorted(vars(function).items()) if name != "__wrapped__"}, True


def is_cached_reader(node: ast.stmt, value: Any) -> bool:  # noqa: ANN401  (what a name is bound to)
    """Return True if :mod:`functools` caches a function that names a reader such as ``open``: only its first call reads the file."""
    if not hasattr(value, "cache_info"):
        return False
    return any(getattr(inner, "id", getattr(inner, "attr", "")) in _READING_NAMES for inner in ast.walk(node))


def queries_file(call: ast.Call) -> bool:
    """Return True if the query of a call names a file, such as ``duckdb.sql("from 'a.csv'")``."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _QUERY_METHODS:
        return False
    texts = [inner.value for argument in call.args[:1] for inner in ast.walk(argument) if isinstance(inner, ast.Constant)]
    return any(isinstance(text, str) and _FILE_IN_SQL.search(text) is not None for text in texts)
