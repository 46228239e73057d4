"""The online store in an LMDB environment, embedded in every process that uses it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import InstallationError, MissingExtraError
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.online.lmdb_check import MappedFile, build_damaged_store_error, refuse_damaged
from mlops_assets.stores.online.protocol import ViewState, WriteCounts, refuse_other_schema
from mlops_assets.stores.online.reader import Lookup, OnlineReader
from mlops_assets.stores.online.records import RecordSchema, entity_keys, merge_records, pack_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import lmdb
    import polars as pl

_MAP_SIZE = 64 * 2**30  # of address space, not of disk: LMDB's file grows with its content
_MAX_VIEWS = 1000
_SIDES = (b"+", b"-")  # suffixes of the two tables of a view; readers use one of them
_SCHEMA = b"\x01"  # the prefix of the keys of schemas; no view's name begins with it


class LmdbStore:
    """Feature rows in LMDB: the writer never blocks readers in other processes, and they never see a partial write.

    Parameters
    ----------
    folder
        The folder of the store, created if needed.

    Raises
    ------
    InstallationError
        The folder cannot be written, or its file is damaged.
    MissingExtraError
        LMDB is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise MissingExtraError.from_extra("lmdb", "serve") from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with hold_lock(folder / "open.lock"):  # another process must not check a file that is being created
                self._environment = _open_environment(folder)
        except (OSError, lmdb.Error) as error:
            raise InstallationError(
                f"the online store '{folder}' cannot be opened: {error}", hint="make it writable, or set MLOPS_ONLINE"
            ) from error
        self._about = self._environment.open_db(b"about")
        self._tables = _Tables(self._environment)

    def replace(self, view: str, layout: pl.DataFrame, *, join_keys: Sequence[str], features: Sequence[str], mark: str = "") -> WriteCounts:
        """Replace all rows of a view atomically: see :class:`OnlineStore`.

        Notes
        -----
        A view has two tables. Readers use one table while the other is filled. One transaction switches readers to the new table and
        empties the old one.
        """
        schema = RecordSchema.from_layout(view, layout, features)
        packed = pack_records(layout, join_keys, schema)
        self._environment.reader_check()  # killed readers keep old pages
        self._tables.create(view)
        with self._environment.begin(write=True) as transaction:
            old_side = self._read_side(transaction, view)
            new_side = _SIDES[old_side == _SIDES[0]]
            table = self._tables[view.encode() + new_side]
            transaction.drop(table, delete=False)
            with transaction.cursor(table) as cursor:
                cursor.putmulti(zip(packed.entities, packed.records, strict=True), append=True)
            if old_side is not None:
                transaction.drop(self._tables[view.encode() + old_side], delete=False)
            self._write_state(transaction, view, new_side, ViewState(schema, len(packed.entities), mark))
        return WriteCounts(packed.rows, len(packed.entities), len(packed.entities))

    def update(  # noqa: PLR0913  (one transaction, described in full)
        self,
        view: str,
        layout: pl.DataFrame,
        *,
        join_keys: Sequence[str],
        features: Sequence[str],
        rebuilt: pl.DataFrame | None = None,
        mark: str | None = None,
    ) -> WriteCounts:
        """Merge rows into a view atomically: see :class:`OnlineStore`."""
        schema = RecordSchema.from_layout(view, layout, features)
        packed = pack_records(layout, join_keys, schema)
        rebuilt_entities = _entity_set(rebuilt, join_keys)
        now = time.time_ns() // 1000
        self._tables.create(view)
        with self._environment.begin(write=True) as transaction:
            state = self._read_state(transaction, view) or ViewState(schema, 0, "")
            refuse_other_schema(view, state, schema)
            side = self._read_side(transaction, view) or _SIDES[0]
            added, changed, absent = 0, 0, rebuilt_entities.difference(packed.entities)
            with transaction.cursor(self._tables[view.encode() + side]) as cursor:
                for entity, record in zip(packed.entities, packed.records, strict=True):
                    old = cursor.get(entity)
                    replaces = old is None or entity in rebuilt_entities
                    new = record if replaces else merge_records(old, record, schema, view=view, before=now)
                    added += old is None
                    changed += new != old and cursor.put(entity, new)
                removed = sum(cursor.pop(entity) is not None for entity in absent)
            mark = state.mark if mark is None else mark
            self._write_state(transaction, view, side, ViewState(schema, state.entities + added - removed, mark))
        return WriteCounts(packed.rows, len(packed.entities) + len(absent), changed + removed)

    def reader(self, lookups: Sequence[Lookup]) -> OnlineReader:
        """Return a reader of several views at once."""
        return _LmdbReader(self._environment, self._about, self._tables, lookups)

    def state(self, view: str) -> ViewState | None:
        """Return the state of a view; None when the store does not contain the view."""
        with self._environment.begin() as transaction:
            return self._read_state(transaction, view)

    def views(self) -> list[str]:
        """Return the sorted names of all stored views."""
        with self._environment.begin() as transaction, transaction.cursor(self._about) as cursor:
            return [bytes(key).decode() for key in cursor.iternext(values=False) if not bytes(key).startswith(_SCHEMA)]

    def remove(self, view: str) -> None:
        """Delete a view and its rows: see :class:`OnlineStore`."""
        self._tables.create(view)
        with self._environment.begin(write=True) as transaction:
            transaction.delete(view.encode(), db=self._about)
            for side in _SIDES:  # emptied, not deleted: other processes may have them open
                transaction.drop(self._tables[view.encode() + side], delete=False)

    def _read_side(self, transaction: lmdb.Transaction, view: str) -> bytes | None:
        """Return the suffix of the table that readers use; None when the store does not contain the view."""
        value = transaction.get(view.encode(), db=self._about)
        return None if value is None else bytes(value[:1])

    def _read_state(self, transaction: lmdb.Transaction, view: str) -> ViewState | None:
        value = transaction.get(view.encode(), db=self._about)
        return None if value is None else ViewState.from_json(bytes(value[1:]))

    def _write_state(self, transaction: lmdb.Transaction, view: str, side: bytes, state: ViewState) -> None:
        transaction.put(_SCHEMA + state.schema.id, state.schema.data, db=self._about)
        transaction.put(view.encode(), side + state.data, db=self._about)


def _open_environment(folder: Path) -> lmdb.Environment:
    """Open the environment of a folder; raise InstallationError when its file is damaged."""
    import lmdb

    refuse_damaged(folder)
    # Without metasync, a crash of the machine may undo the last transaction and its mark; the next materialisation repeats it.
    return lmdb.open(str(folder), map_size=_MAP_SIZE, max_dbs=2 + 2 * _MAX_VIEWS, max_readers=1024, metasync=False)


class _Tables:
    """The tables of an environment; a process opens each once and keeps it open."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment, self._open = environment, dict[bytes, Any]()
        self._lock = threading.Lock()

    def __getitem__(self, name: bytes) -> Any:  # noqa: ANN401  (an LMDB table)
        return self._open[name]

    def create(self, view: str) -> None:
        """Open both tables of a view, and create them if needed; call this method outside of transactions."""
        for side in _SIDES:
            self._open_table(view.encode() + side, create=True)

    def open_existing(self, name: bytes) -> None:
        """Open an existing table; call this method outside of transactions."""
        self._open_table(name, create=False)

    def _open_table(self, name: bytes, *, create: bool) -> None:
        import lmdb

        with self._lock:
            if name in self._open:
                return
            try:
                self._open[name] = self._environment.open_db(name, create=create)
            except lmdb.DbsFullError as error:
                raise InstallationError(
                    f"the online store '{self._environment.path()}' has no room for more than {_MAX_VIEWS} views",
                    hint="set MLOPS_ONLINE to another folder for some of the projects",
                ) from error


class _LmdbReader(OnlineReader):
    """Reads all views in one read transaction."""

    def __init__(self, environment: lmdb.Environment, about: Any, tables: _Tables, lookups: Sequence[Lookup]) -> None:  # noqa: ANN401
        super().__init__(lookups)
        import lmdb

        self._begin: Callable[..., Any] = environment.begin
        self._damage, self._file = lmdb.Error, MappedFile(Path(environment.path()))
        self._about, self._tables = about, tables
        self._names = [lookup.view.encode() for lookup in lookups]
        self._seen: tuple[int, list[Any]] = (-1, [])  # the id of the last write transaction that was read, and the table of each view in it

    def _fetch_one(self, entities: Sequence[bytes | None]) -> list[bytes | None]:
        transaction, tables = self._check_and_begin()
        try:
            get = transaction.get
            return [
                None if entity is None or table is None else get(entity, None, table)
                for entity, table in zip(entities, tables, strict=True)
            ]
        except self._damage as error:
            raise build_damaged_store_error(self._file.folder, str(error)) from error
        finally:
            transaction.abort()

    def _fetch_many(self, entities: Sequence[Sequence[bytes | None]]) -> list[list[bytes | None]]:
        transaction, tables = self._check_and_begin()
        try:
            get = transaction.get
            return [
                [None if entity is None or table is None else get(entity, None, table) for entity in keys]
                for keys, table in zip(entities, tables, strict=True)
            ]
        except self._damage as error:
            raise build_damaged_store_error(self._file.folder, str(error)) from error
        finally:
            transaction.abort()

    def _check_and_begin(self) -> tuple[Any, list[Any]]:
        """Check that the file was not replaced or shortened, begin a transaction, and return it with the tables to read."""
        self._file.check_unchanged()
        try:
            return self._begin_transaction()
        except self._damage as error:
            raise build_damaged_store_error(self._file.folder, str(error)) from error

    def _begin_transaction(self) -> tuple[Any, list[Any]]:
        """Begin a transaction, and return it with the tables to read; tables are looked up again only after a write."""
        while True:
            transaction, cached = self._begin(), self._seen
            if transaction.id() == cached[0]:
                return transaction, cached[1]
            entries = [transaction.get(name, db=self._about) for name in self._names]
            transaction_id = transaction.id()
            transaction.abort()
            names = [None if value is None else name + value[:1] for name, value in zip(self._names, entries, strict=True)]
            for name in names:
                if name is not None:
                    self._tables.open_existing(name)
            self._seen = transaction_id, [None if name is None else self._tables[name] for name in names]

    def _fetch_schema(self, digest: bytes) -> RecordSchema | None:
        try:
            with self._begin() as transaction:
                value = transaction.get(_SCHEMA + digest, db=self._about)
        except self._damage as error:
            raise build_damaged_store_error(self._file.folder, str(error)) from error
        return None if value is None else RecordSchema.from_json(value)


def _entity_set(rows: pl.DataFrame | None, join_keys: Sequence[str]) -> set[bytes]:
    """Return the encoded entities of the join keys in some rows; empty for None."""
    if rows is None or rows.is_empty():
        return set()
    import polars as pl

    return set(entity_keys(rows, join_keys).cast(pl.Binary).to_list())
