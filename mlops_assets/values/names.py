"""Names of things, and mappings as hashable tuples."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

V = TypeVar("V")
OWN = "__"  # columns of the package start with it, columns of a user never do
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def validate_name(name: str, what: str) -> str:
    """Return ``name`` when it can name an asset, a table and a file; raise DefinitionError otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} cannot be named {name!r}",
            hint="use lower-case letters, digits and underscores, a letter first, at most 63 characters",
        )
    return name


def check_columns(columns: Iterable[str], what: str) -> None:
    """Refuse names of columns that start like the package's own, or that a table, a log or a request cannot carry.

    Parameters
    ----------
    columns
        The names.
    what
        The owner of the columns, for messages.

    Raises
    ------
    DefinitionError
        The first name that cannot be used.
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


def pairs(mapping: Mapping[str, V] | None) -> tuple[tuple[str, V], ...]:
    """Return a mapping as a sorted tuple of pairs, which hashes."""
    return tuple(sorted((mapping or {}).items(), key=lambda pair: pair[0]))


def names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value or ())
