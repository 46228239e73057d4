"""Search the compiled code of a user's function for a name."""

from __future__ import annotations

import inspect
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def mentions_name(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function, or a function that it calls by a global name, uses a name; import aliases are resolved.

    Functions that are reached as attributes of modules or objects are not searched.

    Parameters
    ----------
    function
        The function; decorators that set ``__wrapped__`` are unwrapped.
    name
        The name of a function or attribute.
    """
    pending, seen = [inspect.unwrap(function)], set[int]()
    while pending:
        current = pending.pop()
        if not isinstance(current, FunctionType) or id(current) in seen:
            continue
        seen.add(id(current))
        for used in _list_names(current.__code__):
            value = current.__globals__.get(used)
            if name in (used, getattr(value, "__name__", None)):
                return True
            pending += [inspect.unwrap(value)] if isinstance(value, FunctionType) else []
    return False


def _list_names(code: CodeType) -> Iterator[str]:
    """Yield the global names and attributes that code uses, including the functions and comprehensions within the code."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _list_names(constant)
