"""A strict JSON decoder for the rows of a request. Its errors name row, field and type, and repeat no value."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mlops_assets.errors import DataError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Times in this range fit every time unit of a data frame.
_MIN_TIME, _MAX_TIME = ((datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // _MICROSECOND for year in (1700, 2262))
_FLOAT32_MAX = 3.4028234663852886e38
_PATH = re.compile(r" - at `\$(?:\[(?P<row>\d+)\])?(?:\.(?P<field>.*))?`$", re.DOTALL)
_NAMED = re.compile(r"field `(.*)`", re.DOTALL)
TYPES = ("str", "int", "float", "bool", "datetime")  # types of a field; a key may also be a "date"
_ROLES = {
    "key": "Identifies the row; only logged.",
    "time": "The time of the event: features are looked up as of it. Defaults to now.",
    "join_key": "Features are looked up by it.",
    "input": "Features are computed from it.",
    "column": "An input of the model.",
}
_NUL = b"\\u0000"  # JSON has no other way to write it
_EXPECTED = {
    "date": "a date such as 2013-04-01",
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "datetime": "a time with its zone",
}


class RequestError(DataError):
    """A request that is refused.

    Parameters
    ----------
    message, hint
        As in :class:`mlops_assets.errors.MlopsError`.
    status
        HTTP status of the reply.
    where
        ``row``, ``field`` and ``expected`` type, where they are known.
    """

    def __init__(self, message: str, *, hint: str, status: int = 422, **where: object) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.where = where

    @property
    def body(self) -> bytes:
        """The body of the reply, JSON."""
        return json.dumps({"error": self.message, "hint": self.hint, **self.where}).encode()


@dataclass(frozen=True)
class RequestField:
    """One field of a row, as in the manifest of a stored model; ``role`` is a key of ``_ROLES``."""

    name: str
    type: str
    nullable: bool
    role: str

    @property
    def optional(self) -> bool:
        """Whether a row may omit the field."""
        return self.role in ("key", "time")

    @property
    def expected_type(self) -> str:
        """The expected type, in words."""
        return _EXPECTED[self.type] + (" or null" if self.nullable and self.role != "time" else "")


@dataclass(frozen=True)
class RequestRows:
    """The rows of one request, by column.

    Parameters
    ----------
    count
        Number of rows.
    columns
        Field → values; times are microseconds since 1970 in UTC, an omitted key is None, an omitted event time is now.
    at
        The event time of each row, in microseconds since 1970 in UTC.
    """

    count: int
    columns: Mapping[str, Sequence[Any]]
    at: Sequence[int]


class RequestSchema:
    """Decodes the rows of a request.

    ``row`` is the msgspec type of a row, ``names`` are its fields in order, and ``time`` is the field of the event time or None.

    Parameters
    ----------
    fields
        Fields of a row, as in ``manifest["request"]``.
    types
        Column of ``X`` → polars type, which numbers must fit.
    max_rows
        Maximum number of rows of one request.
    receiver
        Name of the receiver of the rows, for error messages.
    """

    def __init__(self, fields: Sequence[Mapping[str, Any]], types: Mapping[str, str], max_rows: int, receiver: str = "the model") -> None:
        self._receiver = receiver
        self.fields = tuple(RequestField(**field) for field in fields)
        self.max_rows = max_rows
        self.names = tuple(field.name for field in self.fields)
        self.time = next((field.name for field in self.fields if field.role == "time"), None)
        self._times = tuple(field.name for field in self.fields if field.type == "datetime")
        members = [(f"f{i}", *_make_member(field, types.get(field.name, ""))) for i, field in enumerate(self.fields)]
        names = {f"f{i}": field.name for i, field in enumerate(self.fields)}
        row: Any = msgspec.defstruct("Row", members, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)
        self.row = row
        self._decode = msgspec.json.Decoder(row | Annotated[list[row], msgspec.Meta(max_length=max_rows)]).decode

    def decode(self, body: bytes) -> RequestRows:
        """Return the rows of a request: one object or a list of objects.

        Parameters
        ----------
        body
            JSON in UTF-8.

        Raises
        ------
        RequestError
            400 when the body is not JSON, 413 for too many rows, 422 when a row does not fit the model.
        """
        try:
            decoded = self._decode(body)
        except msgspec.ValidationError as error:
            raise self._translate_error(str(error), body) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestError(
                "the body is not JSON",
                hint="send one object, or a list of objects; NaN and Infinity are not JSON: send null instead",
                status=400,
            ) from None
        rows = decoded if isinstance(decoded, list) else [decoded]
        if _NUL in body:
            self._refuse_nul(rows)
        values = zip(*map(msgspec.structs.astuple, rows), strict=True) if rows else ([] for _ in self.names)
        columns: dict[str, Sequence[Any]] = dict(zip(self.names, values, strict=True))
        for name in self._times:
            columns[name] = [self._to_microseconds(name, row, value) for row, value in enumerate(columns[name])]
        at: Sequence[int] = columns[self.time] if self.time else [_now_in_microseconds()] * len(rows)
        return RequestRows(len(rows), columns, at)

    def _refuse_nul(self, rows: Sequence[Any]) -> None:
        """Raise RequestError for text with a NUL character, which the lake cannot store."""
        for row, values in enumerate(map(msgspec.structs.astuple, rows)):
            for field, value in zip(self.fields, values, strict=True):
                if isinstance(value, str) and "\0" in value:
                    raise RequestError(
                        f"row {row}: field '{field.name}' holds a NUL character, which cannot be stored",
                        hint=f"strip \\u0000 from '{field.name}'",
                        row=row,
                        field=field.name,
                        expected="str",
                    )

    def _to_microseconds(self, name: str, row: int, value: datetime | None) -> int | None:
        """Return a time in microseconds since 1970; None becomes the current time if the field is the event time, else it stays None.

        Raise RequestError for a time that a data frame cannot hold in every unit.
        """
        if value is None:
            return _now_in_microseconds() if name == self.time else None
        at = (value - EPOCH) // _MICROSECOND
        if not _MIN_TIME <= at <= _MAX_TIME:
            raise RequestError(
                f"row {row}: the time '{name}' is not between 1700 and 2262",
                hint="check the year",
                row=row,
                field=name,
                expected="datetime",
            )
        return at

    def _translate_error(self, text: str, body: bytes) -> RequestError:
        """Return the error for msgspec's error text, which quotes no values; names of unknown fields are not repeated."""
        if text.startswith("Expected `array` of length"):
            return RequestError(f"a request may have at most {self.max_rows} rows", hint="send them in several requests", status=413)
        path, single = _PATH.search(text), body.lstrip()[:1] == b"{"
        row = 0 if single or path is None else int(path["row"] or 0)
        if text.startswith("Object contains unknown field"):
            match = _NAMED.search(text[: path.start()] if path and not single else text)
            hint = suggest_name(match[1] if match else "", self.names) + f"a row has {', '.join(self.names)}"
            return RequestError(f"row {row} has a field that {self._receiver} does not accept", hint=hint, row=row)
        if text.startswith("Object missing required field"):
            field = next(f for f in self.fields if f"`{f.name}`" in text)
            return self._build_field_error(row, field, f"row {row} lacks the field '{field.name}'")
        wrong_field = next((f for f in self.fields if path is not None and f.name == path["field"]), None)
        if wrong_field is None:
            return RequestError(
                "the body must be an object or a list of objects" if path is None else f"row {row} must be an object",
                hint=f"a row has {', '.join(self.names)}",
            )
        if "timezone" in text:
            return self._build_field_error(row, wrong_field, f"row {row}: the time '{wrong_field.name}' has no time zone")
        return self._build_field_error(row, wrong_field, f"row {row}: field '{wrong_field.name}' must be {wrong_field.expected_type}")

    def _build_field_error(self, row: int, field: RequestField, message: str) -> RequestError:
        hint = "give a time zone, e.g. 2013-04-01T12:00:00Z" if field.type == "datetime" else f"'{field.name}' is {field.expected_type}"
        if field.type in ("int", "float"):
            hint += ", within the range of its type"
        return RequestError(message, hint=hint, row=row, field=field.name, expected=field.type)


def _make_member(field: RequestField, dtype: str) -> tuple[Any, ...]:
    """Return the type of a field with its description, followed by its default None if a row may omit the field."""
    may_be_null = field.role == "key" or (field.nullable and field.role != "time")
    kind = _make_type(field, dtype)
    described: Any = Annotated[kind | None if may_be_null else kind, msgspec.Meta(description=_ROLES[field.role])]
    return (described, None) if field.optional else (described,)


def _make_type(field: RequestField, dtype: str) -> Any:  # noqa: ANN401  (a type)
    if field.type == "datetime":
        return Annotated[datetime, msgspec.Meta(tz=True)]
    if field.type == "int":
        low, high = integer_range(dtype)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    if field.type == "float" and dtype == "Float32":
        return Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
    return {"str": str, "float": float, "bool": bool, "date": date}[field.type]


def integer_range(dtype: str) -> tuple[int, int]:
    """Return the lowest and the highest integer of a polars type, within signed 64 bits; a type without integers counts as ``Int64``."""
    match = re.fullmatch(r"(U?)Int(\d+)", dtype)
    unsigned, bits = (match[1] == "U", min(int(match[2]), 64)) if match else (False, 64)
    # JSON decoders agree on signed 64 bits.
    return (0, min(2**bits, 2**63) - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _now_in_microseconds() -> int:
    return time.time_ns() // 1000
