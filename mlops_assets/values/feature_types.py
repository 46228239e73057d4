"""The types that a feature can be declared with."""

from __future__ import annotations

import typing
from datetime import datetime
from typing import Any

from mlops_assets.errors import DefinitionError

PLAIN = (float, int, bool, str, datetime)


def item_type(kind: Any) -> type | None:  # noqa: ANN401  (a type, or typing's description of one)
    """Return the type of the items of a list or an embedding; None for the type of a single value."""
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    return typing.get_args(bare)[0] if typing.get_origin(bare) is list and typing.get_args(bare) else None


def embedding_length(kind: Any) -> int | None:  # noqa: ANN401
    """Return the number of items of an embedding, such as 384 for ``Annotated[list[float], 384]``; None for any other type."""
    metadata = getattr(kind, "__metadata__", ())
    return next((value for value in metadata if isinstance(value, int)), None)


def format_type(kind: Any) -> str:  # noqa: ANN401
    """Return a type as people write it, e.g. ``float`` or ``list[float] of 384``; the same in every version of Python."""
    item = item_type(kind)
    if item is None:
        return str(getattr(kind, "__name__", kind))
    return f"list[{item.__name__}]" + (f" of {embedding_length(kind)}" if embedding_length(kind) is not None else "")


def check_type(view: str, feature: str, kind: Any) -> None:  # noqa: ANN401
    """Raise DefinitionError when a feature is declared with a type that cannot be stored."""
    if kind in PLAIN or item_type(kind) in PLAIN:
        return
    raise DefinitionError(
        f"feature '{feature}' of '{view}' is declared as {format_type(kind)}",
        hint="declare float, int, bool, str, datetime, a list of one of them, or an embedding as Annotated[list[float], 384]",
    )


def accepts_default(kind: Any, value: object) -> bool:  # noqa: ANN401
    """Return True if a value can be the default of a feature of this type; an int fits ``float``, a bool fits only ``bool``."""
    item = item_type(kind)
    if item is not None:
        return (
            isinstance(value, (list, tuple))
            and all(accepts_default(item, part) for part in value)
            and embedding_length(kind) in (None, len(value))
        )
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
