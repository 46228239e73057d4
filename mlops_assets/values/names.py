"""Check the names of assets and columns, and turn arguments into hashable tuples."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

V = TypeVar("V")
OWN = "__"  # prefix of the package's own columns; a user's column cannot start with it
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def validate_name(name: str, what: str) -> str:
    """Return ``name`` if it can name an asset, a table and a file; else raise DefinitionError, where ``what`` is the noun: ``a model``."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} cannot be named {name!r}",
            hint="use lower-case letters, digits and underscores, a letter first, at most 63 characters",
        )
    return name


def check_columns(columns: Iterable[str], what: str) -> None:
    """Raise DefinitionError for the first column name that cannot be used.

    Parameters
    ----------
    columns
        The names.
    what
        The owner of the columns, named in error messages.

    Raises
    ------
    DefinitionError
        A name is empty, starts like the package's own columns, cannot be printed or quoted, or is a pattern in polars.
    """
    for name in columns:
        if name.startswith(OWN):
            raise DefinitionError(
                f"{what} has a column named {name!r}: names that start with '{OWN}' belong to the package",
                hint=f"rename it, e.g. to {name.lstrip('_') or 'value'!r}",
            )
        if not name or not name.isprintable() or set(name) & set('"\\'):
            raise DefinitionError(
                f"{what} has a column named {name!r}, which no service can read",
                hint="rename it without double quotes, backslashes, line breaks and control characters",
            )
        if name == "*" or (name.startswith("^") and name.endswith("$")):
            raise DefinitionError(
                f"{what} has a column named {name!r}, which polars reads as a pattern over all columns",
                hint="rename it: '*' alone, and names from '^' to '$', stand for other columns",
            )


def to_pairs(mapping: Mapping[str, V] | None) -> tuple[tuple[str, V], ...]:
    """Return a mapping as a tuple of ``(key, value)`` sorted by key, which can be hashed if its values can; empty for None."""
    return tuple(sorted((mapping or {}).items(), key=lambda pair: pair[0]))


def to_names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one name or several names as a tuple; empty for None."""
    return (value,) if isinstance(value, str) else tuple(value or ())
