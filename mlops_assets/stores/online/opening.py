"""Open an online store by its URL."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import PlatformError

if TYPE_CHECKING:
    from mlops_assets.stores.online.protocol import OnlineStore


@cache
def open_online(url: str) -> OnlineStore:
    """Open the online store in a folder or behind ``redis://host:port/db``, the same in the whole process.

    Raises
    ------
    PlatformError
        It cannot be opened, or the URL has an unknown scheme.
    """
    if url.startswith(("redis://", "rediss://", "unix://")):
        from mlops_assets.stores.online.redis_store import RedisStore

        return RedisStore(url)
    if "://" in url:
        raise PlatformError(
            f"the online store '{url}' is neither a folder nor a Redis server",
            hint="set MLOPS_ONLINE to a folder or to redis://host:port/db",
        )
    from mlops_assets.stores.online.lmdb_store import LmdbStore

    return LmdbStore(Path(url).absolute())
