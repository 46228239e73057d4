"""Translate names and values between this package and MLflow; forbidden characters are replaced, and a hash keeps names unique."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from typing import TYPE_CHECKING, TypeVar

from mlops_assets.errors import DataError
from mlops_assets.stores.tracker.values import EXPERIMENT, check_name, check_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # the maximum lengths that MLflow allows
_CLIPPED = 1.7976931348623157e308  # what MLflow's database stores for an infinity
_MAX_BYTES = 800_000  # in one request; a server refuses more than a million
_HASH = 8

T = TypeVar("T")


def to_mlflow_key(name: str) -> str:
    """Return a name that MLflow allows for a metric, parameter or tag.

    Forbidden characters become ``_``. A changed name ends in a hash that makes it unique.
    """
    plain = re.sub(r"[^A-Za-z0-9_.\- :/]", "_", name)
    if plain == name and len(name) <= MAX_NAME and posixpath.normpath(name) == name and not name.startswith(("/", "..")):
        return name
    return _append_hash(re.sub(r"[/.]{2,}|^[/.]+|/$|/\.(?=/|$)", "_", plain), name, MAX_NAME)


def to_mlflow_text(text: str, max_length: int) -> str:
    """Return a text, cut to ``max_length`` with ``…`` at the end; the artifact ``mlops_assets/run.json`` holds the whole text."""
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def from_mlflow_experiment(name: str) -> str:
    """Return a name that this package allows for an MLflow experiment or model."""
    if EXPERIMENT.fullmatch(name):
        return name
    return _append_hash(re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-") or "experiment", name, 63)


def from_mlflow_key(name: str) -> str:
    """Return a name that this package allows for an MLflow metric, parameter or tag."""
    return _keep_or_hash(check_key, name, 200, r"[^!-~ ]")


def from_mlflow_path(name: str) -> str:
    """Return a path that this package allows for an MLflow artifact."""
    return _keep_or_hash(check_path, name, 200, r"[^A-Za-z0-9_.\-/]")


def check_key(name: str) -> str:
    """Return the name of a metric, parameter or tag; raise DataError when it is not valid."""
    return check_name(name, "a metric, parameter or tag")


def from_mlflow_value(value: float) -> float:
    """Return a metric's value; plus or minus the maximum float becomes an infinity, because MLflow stores infinities so."""
    return math.copysign(math.inf, value) if abs(value) >= _CLIPPED else value


def split_batches(items: Sequence[T], max_items: int, weight: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield items in batches that fit into one request: at most ``max_items`` items, and ``_MAX_BYTES`` by ``weight``."""
    piece: list[T] = []
    size = 0
    for item in items:
        if piece and (len(piece) == max_items or size + weight(item) > _MAX_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += weight(item)
    if piece:
        yield piece


def _keep_or_hash(check: Callable[[str], str], name: str, max_length: int, forbidden: str) -> str:
    """Return a name that passes ``check``, or else the name with forbidden parts replaced and a hash appended."""
    try:
        return check(name)
    except DataError:
        return _append_hash(re.sub(r"\.{2,}|^[/. ]+|[/ ]+$|//+|(?<=/)[ .]+|[ ]+(?=/)", "_", re.sub(forbidden, "_", name)), name, max_length)


def _append_hash(plain: str, name: str, max_length: int) -> str:
    return f"{plain[: max_length - _HASH - 1]}.{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:_HASH]}"
