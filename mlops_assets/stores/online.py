"""The online feature store: the rows of a feature view that a service may still look up, by entity and time.

A record is kept for each entity and each time from which it was valid, so that a lookup at a time finds exactly the row that the
point-in-time join finds: the last one whose ``valid_from`` is not later.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlops_assets.errors import MissingExtraError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

Found = tuple[int, tuple[Any, ...]]
_MAP_SIZE = 64 * 2**30  # of address space, not of disk: LMDB's file grows with its content
_SIGN = 1 << 63  # shifts signed microseconds so that their bytes sort as they do
_LONGEST = 511 - 8 - 8  # bytes of a key in LMDB, less its generation and time
_COUNTER = b"\x00"  # no view is named so


class OnlineStore(Protocol):
    """Feature rows by view, entity and time."""

    def replace(self, view: str, rows: pl.DataFrame, *, join_keys: Sequence[str], features: Sequence[str]) -> int:
        """Make these rows the whole of a view, atomically; return how many there are."""
        ...

    def read(self, view: str, keys: Sequence[tuple[object, ...]], at: Sequence[int]) -> list[Found | None]:
        """Return for each entity the row that was valid at a time."""
        ...


class LmdbStore:
    """The online store in one LMDB environment: readers in many processes are never blocked, and never see half a view.

    Parameters
    ----------
    folder
        Made when missing.

    Raises
    ------
    PlatformError
        The folder cannot be written.
    MissingExtraError
        LMDB is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import lmdb
            import msgspec
        except ImportError as error:
            raise MissingExtraError.from_extra("lmdb", "serve") from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._environment = lmdb.open(str(folder), map_size=_MAP_SIZE, max_dbs=2, max_readers=1024)
        except (OSError, lmdb.Error) as error:
            raise PlatformError(
                f"the online store '{folder}' cannot be opened: {error}", hint="make it writable, or set MLOPS_ONLINE"
            ) from error
        self._views, self._rows = (self._environment.open_db(name) for name in (b"views", b"rows"))
        self._pack, self._unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list).decode

    def replace(self, view: str, rows: pl.DataFrame, *, join_keys: Sequence[str], features: Sequence[str]) -> int:
        """Make these rows the whole of a view.

        Parameters
        ----------
        view
            Its name.
        rows
            As of :func:`mlops_assets.compute.point_in_time.as_of_layout`: join keys, ``__valid_from``, ``__event`` and features.
        join_keys, features
            Column names, in the order in which lookups give and get them.

        Returns
        -------
        int
            The number of rows.

        Notes
        -----
        The rows get a generation of their own, and one transaction moves the view to it: a lookup sees all of one or all of the other.
        """
        times = [rows[name].dt.epoch("us").to_list() for name in ("__valid_from", "__event")]
        entities = map(encoded_entity, zip(*(rows[key].to_list() for key in join_keys), strict=True))
        values = zip(times[1], *(rows[name].to_list() for name in features), strict=True)
        self._environment.reader_check()  # readers that were killed hold old pages back
        with self._environment.begin(write=True) as transaction:
            generation = self._next(transaction)
            keys = (generation + entity + encoded_time(valid) for entity, valid in zip(entities, times[0], strict=True))
            pairs = sorted(zip(keys, map(self._pack, values), strict=True))
            with transaction.cursor(self._rows) as cursor:
                cursor.putmulti(pairs, append=True)
                before = transaction.get(view.encode(), db=self._views)
                if before is not None:
                    _drop(cursor, before)
            transaction.put(view.encode(), generation, db=self._views)
        return len(pairs)

    def read(self, view: str, keys: Sequence[tuple[object, ...]], at: Sequence[int]) -> list[Found | None]:
        """Return for each entity the row that was valid at a time.

        Parameters
        ----------
        view
            Its name; one that was never written has no rows.
        keys
            The join keys' values of each entity; an entity with a null is found nowhere.
        at
            Microseconds since 1970 in UTC, one for each entity.

        Returns
        -------
        list
            ``(event timestamp in µs, feature values)``, or None where nothing was valid yet.
        """
        with self._environment.begin() as transaction:
            generation = transaction.get(view.encode(), db=self._views)
            if generation is None:
                return [None] * len(keys)
            with transaction.cursor(self._rows) as cursor:
                entities = (None if None in key else generation + encoded_entity(key) for key in keys)
                return [None if entity is None else self._one(cursor, entity, time) for entity, time in zip(entities, at, strict=True)]

    def _one(self, cursor: Any, entity: bytes, at: int) -> Found | None:  # noqa: ANN401  (an LMDB cursor)
        wanted = entity + encoded_time(at)
        # The first key at or after the wanted one; the one before it is the last that was valid earlier.
        found = cursor.key() == wanted or cursor.prev() if cursor.set_range(wanted) else cursor.last()
        if not found or not cursor.key().startswith(entity) or len(cursor.key()) != len(wanted):
            return None
        event, *values = self._unpack(cursor.value())
        return event, tuple(values)

    def _next(self, transaction: Any) -> bytes:  # noqa: ANN401  (an LMDB transaction)
        """Return a generation that sorts after every one there is, so that its rows can be appended."""
        last = int.from_bytes(transaction.get(_COUNTER, b"", db=self._views), "big")
        generation = struct.pack(">Q", last + 1)
        transaction.put(_COUNTER, generation, db=self._views)
        return generation


def _drop(cursor: Any, generation: bytes) -> None:  # noqa: ANN401  (an LMDB cursor)
    more = cursor.set_range(generation)
    while more and cursor.key().startswith(generation):
        more = cursor.delete()


def encoded_time(at: int) -> bytes:
    """Return a time as eight bytes that sort as times do."""
    return struct.pack(">Q", at + _SIGN)


def encoded_entity(key: tuple[object, ...]) -> bytes:
    """Return an entity as bytes: each value with its type and length, so that no two entities are alike; a hash when they are many."""
    parts = [f"{type(value).__name__[0]}{value}".encode() for value in key]
    whole = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return whole if len(whole) <= _LONGEST else b"\xff" + hashlib.sha256(whole).digest()


@cache
def open_online(url: str) -> OnlineStore:
    """Open the online store in a folder, the same in the whole process: LMDB allows one environment a process."""
    if "://" in url:
        raise PlatformError(f"the online store '{url}' is not a folder", hint="set MLOPS_ONLINE to a folder on this machine")
    return LmdbStore(Path(url).absolute())
