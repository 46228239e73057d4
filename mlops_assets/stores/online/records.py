"""The packed record of one entity: the rows of a feature view that a lookup may return, oldest first.

Rows are as :func:`mlops_assets.compute.features.point_in_time.sort_as_of` returns them: sorted by ``valid_from``, the later of event and created
time, without rows that can never match. A record ends in the eight bytes of its schema's id, so that a lookup of the current row reads only
the end of the record. If all features are numbers, booleans and times, a row has a fixed width: event, created, one null bit for each
feature, the values. Otherwise a row is packed as msgpack, and a table of fixed width before the end says where each row ends.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.errors import InstallationError
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

ID_BYTES = 8  # bytes of a schema's id
MAX_ENTITY_BYTES = 480  # LMDB allows 511 bytes for a key, prefix included
HISTORY = timedelta(days=7)  # how far back from the newest row a lookup may go: late requests and replayed days
FORMATS = {"int": "q", "uint": "Q", "float": "d", "bool": "?", "time": "q"}
_HEAD, _MIXED_HEAD, _COUNT = struct.Struct("<qq"), struct.Struct("<qqI"), struct.Struct("<I")
_ENTITY = "__entity"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Row = tuple[int, int, bytes]  # event and created time in microseconds, and the row as it is packed


@dataclass(frozen=True)
class RecordSchema:
    """The features of a record, which decide how its rows are packed.

    Parameters
    ----------
    features
        The name and kind of each feature, in their order. A kind is ``int``, ``uint``, ``float``, ``bool``, ``time``, or ``mixed`` for types without a fixed width.
    """

    features: tuple[tuple[str, str], ...]

    @classmethod
    def from_layout(cls, view: str, layout: pl.DataFrame, features: Sequence[str]) -> RecordSchema:
        """Return the schema of a view's rows; raise InstallationError for a type that cannot be stored."""
        kinds = {name: _classify_type(layout.schema[name]) for name in features}
        if unsupported := [name for name, kind in kinds.items() if not kind]:
            raise InstallationError(
                f"feature '{unsupported[0]}' of view '{view}' is {layout.schema[unsupported[0]]}, which the online store cannot hold",
                hint="cast it to a number, a boolean, a text, a time in UTC, or a list of them",
            )
        return cls(tuple(kinds.items()))

    @classmethod
    def from_json(cls, data: bytes) -> RecordSchema:
        """Return the schema from its :attr:`data`."""
        return cls(tuple((name, kind) for name, kind in json.loads(data)))

    @cached_property
    def data(self) -> bytes:
        """The schema as JSON."""
        return json.dumps(self.features, separators=(",", ":")).encode()

    @cached_property
    def id(self) -> bytes:
        """Eight bytes that identify the schema."""
        return hashlib.sha256(self.data).digest()[:ID_BYTES]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(name for name, _ in self.features)

    @cached_property
    def fixed(self) -> bool:
        """Whether rows have a fixed width: no feature is ``mixed``."""
        return all(kind in FORMATS for _, kind in self.features)

    @cached_property
    def null_bytes(self) -> int:
        """The number of bytes for the null bits."""
        return (len(self.features) + 7) // 8

    @cached_property
    def struct(self) -> struct.Struct:
        """The struct of a row of fixed width."""
        return struct.Struct(f"<qq{self.null_bytes}s" + "".join(FORMATS[kind] for _, kind in self.features))

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The numpy dtype of a row of fixed width."""
        values = [(f"v{i}", "<u8" if kind == "uint" else f"<{FORMATS[kind]}") for i, (_, kind) in enumerate(self.features)]
        values = [(name, code.replace("<q", "<i8").replace("<d", "<f8").replace("<?", "?")) for name, code in values]
        return np.dtype([("event", "<i8"), ("created", "<i8"), ("nulls", "u1", (self.null_bytes,)), *values])


def _classify_type(dtype: pl.DataType) -> str:
    """Return the kind of a polars type, as in :class:`RecordSchema`; empty for a type that cannot be stored."""
    import polars as pl

    if isinstance(dtype, (pl.List, pl.Array)):
        return "mixed" if _classify_type(dtype.inner) else ""  # type: ignore[arg-type]  # the inner type of a column is an instance
    kinds = {
        "uint": dtype == pl.UInt64,
        "int": dtype.is_integer(),
        "float": dtype.is_float(),
        "time": isinstance(dtype, pl.Datetime),
        "bool": dtype in (pl.Boolean, pl.Null),
        "mixed": dtype in (pl.String, pl.Categorical, pl.Enum, pl.Binary),
    }
    return next((kind for kind, fits in kinds.items() if fits), "")


@dataclass(frozen=True)
class PackedRecords:
    """The records of some entities.

    Parameters
    ----------
    entities, records
        Entities and their records, sorted by entity.
    rows
        The total number of rows in the records.
    """

    entities: list[bytes]
    records: list[bytes]
    rows: int


def pack_records(layout: pl.DataFrame, join_keys: Sequence[str], schema: RecordSchema) -> PackedRecords:
    """Pack a layout into one record for each entity.

    Parameters
    ----------
    layout
        Join keys, ``__valid_from``, ``__event`` and features, ``__created`` where it is known; one row for each entity and ``__valid_from``.
    join_keys
        The columns that identify an entity.
    schema
        The schema of the features.
    """
    import polars as pl

    if layout.is_empty():
        return PackedRecords([], [], 0)
    rows = layout.with_columns(entity_keys(layout, join_keys).alias(_ENTITY))
    begins = _mark_starts(rows[_ENTITY])
    if not _is_ordered(rows, begins):
        rows = rows.sort(_ENTITY, "__valid_from")
        begins = _mark_starts(rows[_ENTITY])
    entities, starts = rows[_ENTITY], np.flatnonzero(begins)
    heads = [rows[name if name in rows.columns else "__valid_from"] for name in ("__event", "__created")]
    event, created = (head.dt.cast_time_unit("us").to_physical().to_numpy() for head in heads)
    make = _pack_fixed if schema.fixed else _pack_mixed
    keys = (entities if len(starts) == rows.height else entities.gather(starts)).cast(pl.Binary).to_list()
    return PackedRecords(keys, make(rows, event, created, starts, schema), rows.height)


def _mark_starts(entities: pl.Series) -> np.ndarray:
    return np.concatenate([[True], (entities[1:] != entities[:-1]).to_numpy()])


def _is_ordered(rows: pl.DataFrame, begins: np.ndarray) -> bool:
    """Return whether rows are already sorted by entity and time, as layouts with a single join key are."""
    valid = rows["__valid_from"].to_physical().to_numpy()
    return bool(((valid[1:] >= valid[:-1]) | begins[1:]).all()) and rows[_ENTITY].is_sorted()


def _pack_fixed(
    rows: pl.DataFrame, event_times: np.ndarray, created_times: np.ndarray, starts: np.ndarray, schema: RecordSchema
) -> list[bytes]:
    """Return one record for each entity from sorted rows of fixed width; ``starts`` has the first row of each entity."""
    single = len(starts) == rows.height
    dtype = np.dtype([*schema.dtype.descr, ("id", f"V{ID_BYTES}")]) if single else schema.dtype
    packed = np.zeros(rows.height, dtype=dtype)
    packed["event"], packed["created"] = event_times, created_times
    columns = [_to_physical(rows[name]) for name in schema.names]
    if any(column.null_count() for column in columns):
        nulls = np.column_stack([column.is_null().to_numpy() for column in columns])
        packed["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
    for i, column in enumerate(columns):
        packed[f"v{i}"] = (column.fill_null(strategy="zero") if column.null_count() else column).to_numpy()
    if single:
        packed["id"] = np.frombuffer(schema.id, dtype=f"V{ID_BYTES}")[0]
        return packed.view(f"V{dtype.itemsize}").tolist()
    data, width = packed.tobytes(), schema.dtype.itemsize
    bounds = [*(starts * width).tolist(), len(data)]
    return [data[a:b] + schema.id for a, b in pairwise(bounds)]


def _to_physical(column: pl.Series) -> pl.Series:
    """Return a column as it is packed: numbers in 64 bits, times in microseconds, booleans unchanged."""
    import polars as pl

    if isinstance(column.dtype, pl.Datetime):
        return column.dt.cast_time_unit("us").to_physical()
    if column.dtype == pl.Null:
        return column.cast(pl.Boolean)
    wide = pl.Float64 if column.dtype.is_float() else pl.Int64
    return column if column.dtype in (pl.Boolean, pl.UInt64) else column.cast(wide)


def _pack_mixed(
    rows: pl.DataFrame, event_times: np.ndarray, created_times: np.ndarray, starts: np.ndarray, schema: RecordSchema
) -> list[bytes]:
    """Return one record for each entity from sorted rows packed as msgpack; ``starts`` as in :func:`_pack_fixed`."""
    import msgspec

    encode = msgspec.msgpack.Encoder().encode
    values = zip(*(_to_values(rows[name]) for name in schema.names), strict=True)
    packed_rows = list(zip(event_times.tolist(), created_times.tolist(), map(encode, values), strict=True))
    bounds = [*starts.tolist(), len(packed_rows)]
    return [pack_rows(packed_rows[a:b], schema) for a, b in pairwise(bounds)]


def _to_values(column: pl.Series) -> list[Any]:
    """Return a column as values that msgpack stores exactly, times in microseconds."""
    import polars as pl

    dtype: Any = column.dtype
    depth = 0
    while isinstance(dtype, (pl.List, pl.Array)):
        dtype, depth = dtype.inner, depth + 1
    if isinstance(dtype, pl.Datetime):
        column = column.cast(_nest_dtype(pl.Datetime("us", dtype.time_zone), depth)).cast(_nest_dtype(pl.Int64(), depth))
    elif depth and isinstance(column.dtype, pl.Array):
        column = column.cast(_nest_dtype(dtype, depth))
    return column.to_list()


def _nest_dtype(dtype: pl.DataType, depth: int) -> pl.DataType:
    import polars as pl

    return pl.List(_nest_dtype(dtype, depth - 1)) if depth else dtype


def unpack_rows(record: bytes, schema: RecordSchema) -> list[Row]:
    """Return the rows of a record as (event, created, packed row), oldest first."""
    if schema.fixed:
        width = schema.struct.size
        return [(*_HEAD.unpack_from(record, i), record[i : i + width]) for i in range(0, len(record) - ID_BYTES, width)]
    (count,) = _COUNT.unpack_from(record, len(record) - ID_BYTES - 4)
    table = len(record) - ID_BYTES - 4 - count * _MIXED_HEAD.size
    heads = [_MIXED_HEAD.unpack_from(record, table + i * _MIXED_HEAD.size) for i in range(count)]
    begins = [0, *(end for _, _, end in heads)]
    return [(event, created, record[begin:end]) for (event, created, end), begin in zip(heads, begins, strict=False)]


def pack_rows(rows: Sequence[Row], schema: RecordSchema) -> bytes:
    """Return the record of rows that are sorted, oldest first."""
    data = [row for _, _, row in rows]
    if schema.fixed:
        return b"".join([*data, schema.id])
    heads, end = [], 0
    for event, created, row in rows:
        end += len(row)
        heads.append(_MIXED_HEAD.pack(event, created, end))
    return b"".join([*data, *heads, _COUNT.pack(len(rows)), schema.id])


def merge_records(old: bytes | None, new: bytes, schema: RecordSchema, *, view: str, before: int) -> bytes:
    """Merge two records by time; a new row replaces an old row with the same event and created time.

    Parameters
    ----------
    old, new
        Records with the same schema; ``old`` is None when the entity is new.
    schema
        The schema of the view.
    view
        The name of the view, for error messages.
    before
        The current time, in microseconds since 1970. Rows are dropped that a newer row replaced at least ``HISTORY`` before this time, or
        before the newest row of the entity if that is older.

    Raises
    ------
    InstallationError
        ``old`` has another schema.
    """
    if old == new:
        return new
    if old is not None and old[-ID_BYTES:] != schema.id:
        raise InstallationError(
            f"a record of view '{view}' in the online store has another schema than the view",
            hint=f"materialise {build_graph_key(f'online/{view}')} with full_rebuild=True",
        )
    rows = {row[:2]: row for row in unpack_rows(old, schema)} if old is not None else {}
    rows |= {row[:2]: row for row in unpack_rows(new, schema)}
    merged: list[Row] = []
    latest = -(2**63)
    for row in sorted(rows.values(), key=lambda row: (max(row[0], row[1]), row[0], row[1])):
        if row[0] < latest:
            continue  # a row with a later event time is valid from the same time or earlier
        latest = row[0]
        if merged and max(merged[-1][:2]) == max(row[:2]):
            merged.pop()
        merged.append(row)
    return pack_rows(_drop_unreachable(merged, before), schema)


def _drop_unreachable(rows: list[Row], before: int) -> list[Row]:
    """Drop the rows that a newer row replaced too long ago for a lookup; ``before`` as in :func:`merge_records`."""
    since = min(max(rows[-1][:2]), before) - HISTORY // _MICROSECOND
    first = 0
    while first + 1 < len(rows) and max(rows[first + 1][:2]) <= since:
        first += 1
    return rows[first:]


def entity_key(key: Sequence[Any]) -> bytes:
    """Return unique bytes for an entity: each value with its type and, except for the last value, its length; a hash if they are too long.

    Parameters
    ----------
    key
        The values of the join keys, none of them null.
    """
    if len(key) == 1 and type(key[0]) is str:
        joined = b"s" + key[0].encode()
    else:
        parts = [_encode_value(value) for value in key]
        joined = b"".join([*(b"%d:%b" % (len(part), part) for part in parts[:-1]), parts[-1]])
    return joined if len(joined) <= MAX_ENTITY_BYTES else _hash_key(joined)


def _hash_key(key: bytes) -> bytes:
    return b"\xff" + hashlib.sha256(key).digest()  # no text begins with this byte


def _encode_value(value: Any) -> bytes:  # noqa: ANN401  (any join key)
    """Return one join key as bytes that begin with its type; a type without a code is encoded by its name and repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return b"s" + value.encode()
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, datetime):
        return b"t%d" % (((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND)
    return b"i%d" % value if isinstance(value, int) else f"{type(value).__name__}{value!r}".encode()


def entity_keys(rows: pl.DataFrame, join_keys: Sequence[str]) -> pl.Series:
    """Return the :func:`entity_key` of each row: as text if keys are texts, integers or times and all are short, otherwise as bytes."""
    import polars as pl

    if not all(rows.schema[key].is_integer() or isinstance(rows.schema[key], (pl.String, pl.Datetime)) for key in join_keys):
        return _encode_rows(rows, join_keys)
    parts = [_value_expression(pl.col(key), rows.schema[key]) for key in join_keys]
    lengths = [pl.concat_str(part.str.len_bytes().cast(pl.String), pl.lit(":"), part) for part in parts[:-1]]
    encoded = rows.select(pl.concat_str([*lengths, parts[-1]]).alias("entity")).to_series()
    max_length = encoded.str.len_bytes().max()
    return _encode_rows(rows, join_keys) if isinstance(max_length, int) and max_length > MAX_ENTITY_BYTES else encoded


def _value_expression(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    import polars as pl

    if isinstance(dtype, pl.Datetime):
        return pl.concat_str(pl.lit("t"), column.dt.cast_time_unit("us").to_physical().cast(pl.String))
    return pl.concat_str(pl.lit("s"), column) if dtype == pl.String else pl.concat_str(pl.lit("i"), column.cast(pl.String))


def _encode_rows(rows: pl.DataFrame, join_keys: Sequence[str]) -> pl.Series:
    import polars as pl

    keys = zip(*(rows[key].to_list() for key in join_keys), strict=True)
    return pl.Series("entity", [entity_key(key) for key in keys], dtype=pl.Binary)
