"""Open an online store by its URL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import InstallationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.stores.online.protocol import OnlineStore


def _open_lmdb(url: str) -> OnlineStore:
    from mlops_assets.stores.online.lmdb_store import LmdbStore

    return LmdbStore(Path(url).absolute())


def _open_redis(url: str) -> OnlineStore:
    from mlops_assets.stores.online.redis_store import RedisStore

    return RedisStore(url)


@dataclass(frozen=True)
class OnlineBackend:
    """One kind of online store: its URL schemes, the package it needs, the extra that installs the package, and a function to open it."""

    schemes: tuple[str, ...]
    package: str
    extra: str
    open: Callable[[str], OnlineStore]


# A new online store is a module with an `OnlineStore` and an `OnlineReader`, and one line here.
BACKENDS = (
    OnlineBackend(("redis", "rediss", "unix"), "redis", "redis", _open_redis),
    OnlineBackend(("",), "lmdb", "serve", _open_lmdb),  # a folder
)


def find_backend(url: str) -> OnlineBackend:
    """Return the kind of online store for the scheme of a URL.

    Raises
    ------
    InstallationError
        No kind of online store has this scheme.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    match = next((backend for backend in BACKENDS if scheme in backend.schemes), None)
    if match is None:
        raise InstallationError(
            f"the online store '{url}' has an unknown scheme",
            hint="set MLOPS_ONLINE to a folder or to a URL such as redis://host:port/db",
        )
    return match


@cache
def open_online(url: str) -> OnlineStore:
    """Open the online store in a folder or at ``redis://host:port/db``; all callers in a process share one object.

    Raises
    ------
    InstallationError
        The store cannot be opened, or the URL has an unknown scheme.
    MissingExtraError
        The package of this kind of store is not installed.
    """
    return find_backend(url).open(url)
