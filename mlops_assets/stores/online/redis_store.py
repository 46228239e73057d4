"""The online store in Redis: one hash for each view, entity → record.

A replaced view is written under another name and then renamed. To update a record, the writer merges old and new rows, and a script stores
the result only if the stored record has not changed meanwhile. So concurrent writers do not undo each other.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_assets.errors import InstallationError, MissingExtraError
from mlops_assets.stores.online.protocol import ViewState, WriteCounts, refuse_other_schema
from mlops_assets.stores.online.reader import Lookup, OnlineReader
from mlops_assets.stores.online.records import RecordSchema, entity_keys, merge_records, pack_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

T = TypeVar("T")
_CHUNK_SIZE = 2000  # entities in one command
_EXPIRE_AFTER = 3600  # seconds after which rows of a killed writer are deleted
_MAX_ATTEMPTS = 1000  # to write one chunk, while other writers change its records
_FIRST_WAIT = 0.002  # seconds

# Switches a view to new rows. Keys: rows, new rows, state, name of the old rows until they are deleted. Arguments: schema, mark.
_RENAME = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[4]) redis.call('UNLINK', KEYS[4]) end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) redis.call('PERSIST', KEYS[1]) end
redis.call('HSET', KEYS[3], 'schema', ARGV[1], 'mark', ARGV[2])
"""
# Stores records that no other writer has changed. Keys: rows, state. Arguments: schema; then for each entity its key, old record and new
# record, where "" means no record. Returns the positions of entities that another writer changed meanwhile; -1 when the view has another
# schema.
_SWAP = """
redis.call('HSETNX', KEYS[2], 'schema', ARGV[1])
if redis.call('HGET', KEYS[2], 'schema') ~= ARGV[1] then return {-1} end
local late = {}
for i = 2, #ARGV, 3 do
  local now = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if now ~= ARGV[i + 1] then late[#late + 1] = (i - 2) / 3
  elseif ARGV[i + 2] == '' then redis.call('HDEL', KEYS[1], ARGV[i])
  else redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end
end
return late
"""


class RedisStore:
    """Features in one database of a Redis server.

    Parameters
    ----------
    url
        ``redis://host:port/db``.

    Raises
    ------
    InstallationError
        The server does not answer.
    MissingExtraError
        redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise MissingExtraError.from_extra("redis", "redis") from error
        self._client = redis.Redis.from_url(url)
        self._where = url.rpartition("@")[2] if "@" in url else url  # without the password
        self._rename, self._swap = self._client.register_script(_RENAME), self._client.register_script(_SWAP)
        self._run(self._client.ping)
        self._pipeline = _Pipeline(self._client.connection_pool, self._run)

    def replace(self, view: str, layout: pl.DataFrame, *, join_keys: Sequence[str], features: Sequence[str], mark: str = "") -> WriteCounts:
        """Replace all rows of a view atomically: see :class:`OnlineStore`."""
        schema = RecordSchema.from_layout(view, layout, features)
        packed = pack_records(layout, join_keys, schema)
        new_key, old_key = (f"{_rows_key(view)}:{uuid.uuid4().hex}" for _ in range(2))

        def write() -> WriteCounts:
            self._client.set(_schema_key(schema.id), schema.data)
            for start in range(0, len(packed.entities), _CHUNK_SIZE):
                pairs = zip(packed.entities[start : start + _CHUNK_SIZE], packed.records[start : start + _CHUNK_SIZE], strict=True)
                with self._client.pipeline(transaction=False) as pipe:
                    pipe.execute_command("HSET", new_key, *(part for pair in pairs for part in pair))
                    pipe.expire(new_key, _EXPIRE_AFTER)
                    pipe.execute()
            self._rename(keys=[_rows_key(view), new_key, _build_state_key(view), old_key], args=[schema.data, mark])
            return WriteCounts(packed.rows, len(packed.entities), len(packed.entities))

        return self._run(write)

    def update(  # noqa: PLR0913  (one write, described in full)
        self,
        view: str,
        layout: pl.DataFrame,
        *,
        join_keys: Sequence[str],
        features: Sequence[str],
        rebuilt: pl.DataFrame | None = None,
        mark: str | None = None,
    ) -> WriteCounts:
        """Merge rows into a view: see :class:`OnlineStore`. Each record is written atomically, and the mark is written last."""
        schema = RecordSchema.from_layout(view, layout, features)
        packed = pack_records(layout, join_keys, schema)
        rebuilt_entities = (
            set() if rebuilt is None or rebuilt.is_empty() else {_to_bytes(entity) for entity in entity_keys(rebuilt, join_keys).to_list()}
        )
        records = [
            *zip(packed.entities, packed.records, strict=True),
            *((entity, b"") for entity in rebuilt_entities.difference(packed.entities)),
        ]

        def write() -> WriteCounts:
            refuse_other_schema(view, self.state(view), schema)
            self._client.set(_schema_key(schema.id), schema.data)
            if not records:
                self._swap(keys=[_rows_key(view), _build_state_key(view)], args=[schema.data])
            changed = sum(
                self._merge_chunk(view, records[i : i + _CHUNK_SIZE], rebuilt_entities, schema) for i in range(0, len(records), _CHUNK_SIZE)
            )
            if mark is not None:
                self._client.hset(_build_state_key(view), "mark", mark)
            return WriteCounts(packed.rows, len(records), changed)

        return self._run(write)

    def reader(self, lookups: Sequence[Lookup]) -> OnlineReader:
        """Return a reader of several views at once; each call is one round trip, but loads new schemas in further ones."""
        return _RedisReader(self._pipeline, lookups)

    def state(self, view: str) -> ViewState | None:
        """Return the state of a view; None when the store does not contain the view."""
        fields: dict[bytes, bytes] = self._run(lambda: self._client.hgetall(_build_state_key(view)))
        if b"schema" not in fields:
            return None
        entities = self._run(lambda: self._client.hlen(_rows_key(view)))
        return ViewState(RecordSchema.from_json(fields[b"schema"]), int(entities), fields.get(b"mark", b"").decode())

    def views(self) -> list[str]:
        """Return the sorted names of all stored views."""
        keys: list[bytes] = self._run(lambda: list(self._client.scan_iter(match=_build_state_key("*"), count=1000)))
        return sorted({key.decode().partition("{")[2].rstrip("}") for key in keys})

    def remove(self, view: str) -> None:
        """Delete a view and its rows: see :class:`OnlineStore`."""
        self._run(lambda: self._client.delete(_build_state_key(view), _rows_key(view)))

    def _merge_chunk(self, view: str, records: Sequence[tuple[bytes, bytes]], rebuilt_entities: set[bytes], schema: RecordSchema) -> int:
        """Merge records into the stored records and return how many changed; merge again where another writer changed one meanwhile."""
        changed, remaining = 0, list(records)
        for attempt in range(_MAX_ATTEMPTS):
            swaps, retry = self._plan_swaps(view, remaining, rebuilt_entities, schema), list[tuple[bytes, bytes]]()
            if swaps:
                late = self._swap(
                    keys=[_rows_key(view), _build_state_key(view)], args=[schema.data, *(part for swap in swaps for part in swap[:3])]
                )
                if late == [-1]:
                    refuse_other_schema(view, self.state(view), schema)
                    late = range(len(swaps))
                retry = [(swaps[int(i)][0], swaps[int(i)][3]) for i in late]
            changed += len(swaps) - len(retry)
            if not retry:
                return changed
            remaining = retry
            time.sleep(min(0.1, _FIRST_WAIT * attempt))
        raise InstallationError(
            f"view '{view}' cannot be written: other writers keep changing its records",
            hint="let fewer processes write to the view at the same time",
        )

    def _plan_swaps(
        self, view: str, records: Sequence[tuple[bytes, bytes]], rebuilt_entities: set[bytes], schema: RecordSchema
    ) -> list[tuple[bytes, bytes, bytes, bytes]]:
        """Return entity, stored record, merged record and passed record of each entity whose record changes."""
        now = time.time_ns() // 1000
        stored = self._client.hmget(_rows_key(view), [entity for entity, _ in records])
        swaps = []
        for (entity, new), old in zip(records, stored, strict=True):
            record = new if old is None or entity in rebuilt_entities else merge_records(old, new, schema, view=view, before=now)
            if record != (old or b""):
                swaps.append((entity, old or b"", record, new))
        return swaps

    def _run(self, work: Callable[[], T]) -> T:
        """Call ``work`` and translate errors of redis-py into InstallationError."""
        import redis

        try:
            return work()
        except redis.RedisError as error:
            raise InstallationError(
                f"the online store '{self._where}' failed: {error}",
                hint="check that the server runs, or set MLOPS_ONLINE",
            ) from error


class _Pipeline:
    """Sends all commands before it reads the first reply, over one connection per thread.

    Parameters
    ----------
    pool
        The connection pool of the client.
    run
        A function that calls its argument and translates errors of the client into InstallationError.
    """

    def __init__(self, pool: Any, run: Callable[[Callable[[], Any]], Any]) -> None:  # noqa: ANN401  (redis-py is not there for mypy)
        self._pool, self._run, self._local = pool, run, threading.local()

    def replies(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands and return one reply for each; after an error, send all once more over a new connection."""
        if not commands:
            return []
        import redis

        try:
            return self._exchange(commands)
        except redis.RedisError:  # the connection may have been idle for too long
            return self._run(lambda: self._exchange(commands))  # type: ignore[no-any-return]

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send all commands and read their replies; close the connection if reading fails."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._pool.connection_class(**self._pool.connection_kwargs)
        connection.send_packed_command((b"".join(commands),))
        read = connection.read_response
        try:
            return [read(True) for _ in commands]  # noqa: FBT003  (without decoding)
        except BaseException:
            connection.disconnect()  # unread replies must not reach the next request
            raise


class _RedisReader(OnlineReader):
    """Reads each view with one command, and sends all commands in one round trip."""

    def __init__(self, pipeline: _Pipeline, lookups: Sequence[Lookup]) -> None:
        super().__init__(lookups)
        self._replies = pipeline.replies
        self._heads = [b"$4\r\nHGET\r\n" + _encode_bulk(_rows_key(lookup.view).encode()) for lookup in lookups]
        self._many_heads = [b"$5\r\nHMGET\r\n" + _encode_bulk(_rows_key(lookup.view).encode()) for lookup in lookups]

    def _fetch_one(self, entities: Sequence[bytes | None]) -> list[bytes | None]:
        commands = [
            b"*3\r\n%b$%d\r\n%b\r\n" % (head, len(entity), entity)
            for head, entity in zip(self._heads, entities, strict=True)
            if entity is not None
        ]
        replies = iter(self._replies(commands))
        return [None if entity is None else next(replies) for entity in entities]

    def _fetch_many(self, entities: Sequence[Sequence[bytes | None]]) -> list[list[bytes | None]]:
        commands, present = [], [[entity for entity in keys if entity is not None] for keys in entities]
        for head, keys in zip(self._many_heads, present, strict=True):
            if keys:
                fields = b"".join([b"$%d\r\n%b\r\n" % (len(entity), entity) for entity in keys])
                commands.append(b"*%d\r\n%b%b" % (len(keys) + 2, head, fields))
        replies = iter(self._replies(commands))
        answers = [next(replies) if keys else [] for keys in present]
        return [
            records if len(records) == len(keys) else _align_records(keys, records) for keys, records in zip(entities, answers, strict=True)
        ]

    def _fetch_schema(self, digest: bytes) -> RecordSchema | None:
        key = _schema_key(digest).encode()
        (value,) = self._replies([b"*2\r\n$3\r\nGET\r\n" + _encode_bulk(key)])
        return None if value is None else RecordSchema.from_json(value)


def _align_records(entities: Sequence[bytes | None], records: Sequence[bytes | None]) -> list[bytes | None]:
    """Return one record for each entity, given the records of the entities that are not None."""
    rest = iter(records)
    return [None if entity is None else next(rest) for entity in entities]


def _encode_bulk(part: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(part), part)


def _to_bytes(entity: str | bytes) -> bytes:
    return entity.encode() if isinstance(entity, str) else entity


def _rows_key(view: str) -> str:
    return f"mlops:online:{{{view}}}"


def _build_state_key(view: str) -> str:
    return f"mlops:about:{{{view}}}"


def _schema_key(digest: bytes) -> str:
    return f"mlops:schema:{digest.hex()}"
