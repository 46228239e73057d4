"""Read packed records: of one entity as Python values, of many entities as numpy columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlops_assets.errors import InstallationError, suggest_name
from mlops_assets.stores.online.records import ID_BYTES, MAX_ENTITY_BYTES, RecordSchema, entity_key, unpack_rows
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MICROSECOND = timedelta(microseconds=1)
_TYPES = {"int": np.int64, "uint": np.uint64, "float": np.float64, "bool": np.bool_, "time": np.int64}


class Status(IntEnum):
    """Whether an entity's row is valid (FRESH), older than the view's ttl (STALE), or does not exist (MISSING)."""

    FRESH = 0
    STALE = 1
    MISSING = 2


FRESH, STALE, MISSING = Status


@dataclass(frozen=True)
class Lookup:
    """The features to look up in one view.

    Parameters
    ----------
    view, features
        The name of the view and the names of the features.
    ttl
        How long after its event time a row is valid, inclusive; forever when None.
    """

    view: str
    features: tuple[str, ...]
    ttl: timedelta | None = None


class FeatureRow(NamedTuple):
    """The features of one entity in one view at one time.

    Parameters
    ----------
    values
        The values of the features in the order of the lookup, with times in microseconds since 1970; all None unless the row is fresh.
    status
        The status of the row that was valid at the requested time.
    age
        Microseconds from the row's event time to the requested time; None when there is no row.
    """

    values: tuple[Any, ...]
    status: Status
    age: int | None


@dataclass(frozen=True, eq=False)
class FeatureColumns:
    """The features of many entities in one view.

    Parameters
    ----------
    values
        Feature → one value for each entity, with times in microseconds since 1970. Where ``nulls`` is true, the value is arbitrary.
    nulls
        Feature → whether each value is null; always true when the row is not fresh.
    status, age
        As in :class:`FeatureRow`, with one value for each entity; the age is -1 when there is no row.
    """

    values: Mapping[str, np.ndarray]
    nulls: Mapping[str, np.ndarray]
    status: np.ndarray
    age: np.ndarray


class OnlineReader(ABC):
    """Looks up features in several views at once.

    Parameters
    ----------
    lookups
        The views and features to look up. The keys and the results of a call are in the order of ``lookups``.

    Notes
    -----
    The reader loads a schema at the first record with that schema, so a view can be rebuilt with other columns while the reader is open.
    """

    def __init__(self, lookups: Sequence[Lookup]) -> None:
        self._lookups = tuple(lookups)
        self._plans: list[dict[bytes, _RecordPlan]] = [{} for _ in lookups]
        self._nothing = [FeatureRow((None,) * len(lookup.features), MISSING, None) for lookup in lookups]

    def lookup_one(self, keys: Sequence[tuple[Any, ...]], at: int) -> list[FeatureRow]:
        """Look up one entity in each view.

        Parameters
        ----------
        keys
            For each view, the values of its join keys. A key with a null is never found.
        at
            The time, in microseconds since 1970 in UTC.

        Raises
        ------
        InstallationError
            A view lacks a feature, or the store cannot be read.
        """
        entities, last, entity = [], None, None
        for key in keys:
            if key is not last:  # views of one entity may share its key
                last, entity = key, None if None in key else entity_key(key)
            entities.append(entity)
        records = self._fetch_one(entities)
        answers, plans, nothing = [], self._plans, self._nothing
        for i, record in enumerate(records):
            if record is None:
                answers.append(nothing[i])
            else:
                answers.append((plans[i].get(record[-ID_BYTES:]) or self._prepare_record_plan(i, record[-ID_BYTES:]))(record, at))
        return answers

    def lookup_many(self, keys: Sequence[Sequence[tuple[Any, ...]]], at: Sequence[int]) -> list[FeatureColumns]:
        """Look up many entities in each view.

        Parameters
        ----------
        keys
            For each view, the values of the join keys of each entity; views with the same list object share its encoding.
        at
            The request time of each entity, in microseconds since 1970 in UTC.

        Raises
        ------
        InstallationError
            As in :meth:`lookup_one`.
        """
        encoded = {id(each): _encode_keys(each) for each in keys}
        entities = [encoded[id(each)] for each in keys]
        times = np.asarray(at, dtype=np.int64)
        return [self._read_columns(i, records, times) for i, records in enumerate(self._fetch_many(entities))]

    @abstractmethod
    def _fetch_one(self, entities: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """Return for each view the record of its entity; None when there is none or the entity is None."""

    @abstractmethod
    def _fetch_many(self, entities: Sequence[Sequence[bytes | None]]) -> Sequence[Sequence[bytes | None]]:
        """Return for each view the records of its entities; None where there is none or the entity is None."""

    @abstractmethod
    def _fetch_schema(self, digest: bytes) -> RecordSchema | None:
        """Return the stored schema with an id; None when there is none."""

    def _prepare_record_plan(self, i: int, digest: bytes) -> _RecordPlan:
        """Return and cache the plan that reads the requested features of a view from records of a schema."""
        lookup, schema = self._lookups[i], self._fetch_schema(digest)
        if schema is None:
            raise InstallationError(
                f"the online store holds a record of view '{lookup.view}' whose schema is not stored",
                hint=f"materialise {build_graph_key(f'online/{lookup.view}')} with full_rebuild=True",
            )
        if lacking := [name for name in lookup.features if name not in schema.names]:
            raise InstallationError(
                f"feature '{lacking[0]}' of view '{lookup.view}' is not in the online store",
                hint=suggest_name(lacking[0], schema.names)
                + f"it holds {', '.join(schema.names)}: materialise {build_graph_key(f'online/{lookup.view}')}, or train again",
            )
        plan = self._plans[i][digest] = (_FixedPlan if schema.fixed else _MixedPlan)(schema, lookup)
        return plan

    def _read_columns(self, i: int, records: Sequence[bytes | None], at: np.ndarray) -> FeatureColumns:
        """Return the features of a view's records, row by row only if they have different schemas."""
        first = next((record for record in records if record is not None), None)
        if first is not None:
            plan = self._plans[i].get(first[-ID_BYTES:]) or self._prepare_record_plan(i, first[-ID_BYTES:])
            if (columns := plan.read_many(records, at)) is not None:
                return columns
        digests = {record[-ID_BYTES:] for record in records if record is not None}
        plans = [self._plans[i].get(digest) or self._prepare_record_plan(i, digest) for digest in digests]
        answers = [
            self._nothing[i] if record is None else self._plans[i][record[-ID_BYTES:]](record, time)
            for record, time in zip(records, at.tolist(), strict=True)
        ]
        kinds = dict(plans[0].kinds) if plans else dict.fromkeys(self._lookups[i].features, "float")
        return to_columns(answers, kinds)


def _encode_keys(keys: Sequence[tuple[Any, ...]]) -> list[bytes | None]:
    """Return the encoded entity of each key, None for a key with a null; single texts, the most common keys, take a fast path."""
    if keys and len(keys[0]) == 1:
        texts = [key[0] for key in keys]
        if set(map(type, texts)) == {str} and max(map(len, texts)) * 4 < MAX_ENTITY_BYTES:
            return [b"s" + text.encode() for text in texts]
    return [None if None in key else entity_key(key) for key in keys]


class _RecordPlan(ABC):
    """Reads the records of one schema for one lookup."""

    def __init__(self, schema: RecordSchema, lookup: Lookup) -> None:
        positions = [schema.names.index(name) for name in lookup.features]
        self.schema, self.positions, self.features = schema, positions, lookup.features
        self.kinds = [(name, schema.features[position][1]) for name, position in zip(lookup.features, positions, strict=True)]
        self._ttl = 2**63 - 1 if lookup.ttl is None else lookup.ttl // _MICROSECOND
        self._nulls = (None,) * len(positions)
        self._missing = FeatureRow(self._nulls, MISSING, None)
        self._pick: Callable[[Sequence[Any]], tuple[Any, ...]] | None = None
        if positions != list(range(len(schema.names))):
            self._pick = itemgetter(*positions) if len(positions) > 1 else lambda row: tuple(row[position] for position in positions)

    @abstractmethod
    def __call__(self, record: bytes, at: int) -> FeatureRow:
        """Return the features of a record at a time, in microseconds since 1970."""

    def read_many(self, records: Sequence[bytes | None], at: np.ndarray) -> FeatureColumns | None:
        """Return the features of each record at its requested time; None when any record has another schema."""
        if any(record is not None and record[-ID_BYTES:] != self.schema.id for record in records):
            return None
        times = at.tolist()
        rows = [self._missing if record is None else self(record, time) for record, time in zip(records, times, strict=True)]
        return to_columns(rows, dict(self.kinds))


class _FixedPlan(_RecordPlan):
    """Reads rows of fixed width."""

    def __init__(self, schema: RecordSchema, lookup: Lookup) -> None:
        super().__init__(schema, lookup)
        self._unpack, self._width = schema.struct.unpack_from, schema.struct.size
        self._end = self._width + ID_BYTES
        self._whole = b"\0" * schema.null_bytes
        self._dtype, self._id = np.dtype([*schema.dtype.descr, ("id", "<u8")]), np.uint64(int.from_bytes(schema.id, "little"))
        self._fields = [(name, f"v{position}", position) for name, position in zip(self.features, self.positions, strict=True)]

    def __call__(self, record: bytes, at: int) -> FeatureRow:
        """Return the features of a record at a time, in microseconds since 1970."""
        row = self._unpack(record, len(record) - self._end)
        if row[0] > at or row[1] > at:
            position = self._find_row(record, at)
            if position < 0:
                return self._missing
            row = self._unpack(record, position)
        age = at - row[0]
        if age > self._ttl:
            return FeatureRow(self._nulls, STALE, age)
        values = row[3:] if row[2] == self._whole else self._apply_nulls(row)
        return FeatureRow(values if self._pick is None else self._pick(values), FRESH, age)

    def _apply_nulls(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        bits = int.from_bytes(row[2], "little")
        return tuple(None if bits >> i & 1 else value for i, value in enumerate(row[3:]))

    def _find_row(self, record: bytes, at: int) -> int:
        """Return the byte offset of the row that was valid at a point in time; negative when there was none."""
        low, high, width = 0, (len(record) - ID_BYTES) // self._width, self._width
        while low < high:
            middle = (low + high) // 2
            event, created = self._unpack(record, middle * width)[:2]
            low, high = (low, middle) if event > at or created > at else (middle + 1, high)
        return (low - 1) * width

    def read_many(self, records: Sequence[bytes | None], at: np.ndarray) -> FeatureColumns | None:
        """Return the features of each record at its requested time; None when any record has another schema.

        The last row of a record is used, or an earlier row where the last row was not valid yet at the requested time.
        """
        rows, present = self._last_rows(records)
        if rows is None:
            return None
        early = np.maximum(rows["event"], rows["created"]) > at
        if early.any():
            rows, present = self._replace_early_rows(records, at, rows, early if present is None else early & present, present)
        age = at - rows["event"]
        stale = age > self._ttl
        bits, fields, schema = rows["nulls"], self._fields, self.schema
        nulls = np.unpackbits(bits, axis=1, count=len(schema.names), bitorder="little").view(bool) if bits.any() else None
        if present is not None or stale.any():
            status = stale.astype(np.int64)  # stale is 1
            if present is not None:
                status[~present], age[~present] = MISSING.value, -1
            absent = status != 0
            nulls = np.repeat(absent[:, None], len(schema.names), axis=1) if nulls is None else nulls | absent[:, None]
        else:
            status = np.zeros(len(at), dtype=np.int64)
        if nulls is None:
            none = np.zeros(len(at), dtype=bool)
            return FeatureColumns({name: rows[field] for name, field, _ in fields}, dict.fromkeys(self.features, none), status, age)
        return FeatureColumns({name: rows[field] for name, field, _ in fields}, {name: nulls[:, i] for name, _, i in fields}, status, age)

    def _last_rows(self, records: Sequence[bytes | None]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the last row of each record, and a mask of the records that exist.

        The rows are None if any record has another schema; the mask is None if all records exist.
        """
        end, present = self._end, None
        try:
            ends = b"".join([record[-end:] for record in records])  # type: ignore[index]
        except TypeError:  # one of them is None
            present = np.array([record is not None for record in records])
            ends = b"".join([record[-end:] for record in records if record is not None])
        if len(ends) != end * (len(records) if present is None else int(present.sum())):
            return None, present
        last_rows = np.frombuffer(ends, dtype=self._dtype)
        if not (last_rows["id"] == self._id).all():
            return None, present
        if present is None:
            return last_rows, None
        rows = np.zeros(len(records), dtype=self._dtype)
        rows[present] = last_rows
        return rows, present

    def _replace_early_rows(
        self, records: Sequence[bytes | None], at: np.ndarray, rows: np.ndarray, early: np.ndarray, present: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace each row that was not valid yet at its requested time by the row that was; return the rows and a mask of those that exist."""
        rows, present = rows.copy(), np.ones(len(rows), dtype=bool) if present is None else present
        for i in np.flatnonzero(early).tolist():
            record = records[i]
            position = -1 if record is None else self._find_row(record, int(at[i]))
            present[i] = position >= 0
            if record is not None and position >= 0:
                whole = record[position : position + self._width] + self.schema.id
                rows[i] = np.frombuffer(whole, dtype=self._dtype)[0]
        return rows, present


class _MixedPlan(_RecordPlan):
    """Reads rows that are packed as msgpack; only the values of the requested row are decoded."""

    def __init__(self, schema: RecordSchema, lookup: Lookup) -> None:
        super().__init__(schema, lookup)
        import msgspec

        self._decode = msgspec.msgpack.Decoder(list).decode

    def __call__(self, record: bytes, at: int) -> FeatureRow:
        """Return the features of a record at a time, in microseconds since 1970."""
        valid = ((event, row) for event, created, row in reversed(unpack_rows(record, self.schema)) if event <= at and created <= at)
        event, row = next(valid, (0, None))
        if row is None:
            return self._missing
        age = at - event
        if age > self._ttl:
            return FeatureRow(self._nulls, STALE, age)
        values = self._decode(row)
        return FeatureRow(tuple(values) if self._pick is None else self._pick(values), FRESH, age)


def to_columns(rows: Sequence[FeatureRow], kinds: Mapping[str, str]) -> FeatureColumns:
    """Convert feature rows to columns; a null becomes 0, or None in a column of objects.

    Parameters
    ----------
    rows
        One row for each entity.
    kinds
        Feature → its kind, as in :class:`RecordSchema`.
    """
    values: dict[str, np.ndarray] = {}
    nulls: dict[str, np.ndarray] = {}
    for i, (name, kind) in enumerate(kinds.items()):
        column = [answer.values[i] for answer in rows]
        nulls[name] = np.array([value is None for value in column], dtype=bool)
        if kind in _TYPES:
            values[name] = np.array([0 if value is None else value for value in column], dtype=_TYPES[kind])
        else:
            values[name] = np.empty(len(column), dtype=object)
            values[name][:] = column
    status = np.array([answer.status for answer in rows], dtype=np.int64)
    return FeatureColumns(values, nulls, status, np.array([-1 if a.age is None else a.age for a in rows], dtype=np.int64))
