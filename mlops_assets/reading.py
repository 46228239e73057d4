r"""Read files in dataset functions, without silent changes of values.

Invalid data raises :class:`mlops_assets.DataError`. It names the file and the rule; a bad value also has its column and row.

Examples
--------
>>> import tempfile
>>> from pathlib import Path
>>> from mlops_assets.reading import strict_csv
>>> file = Path(tempfile.mkdtemp()) / "shops.csv"
>>> _ = file.write_text("shop,visitors\n007,12\n")
>>> strict_csv(file, {"shop": str, "visitors": int}).rows()
[('007', 12)]
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

_ZONED = r"(Z|[+-]\d\d:?\d\d)$"
_TYPE_HINT = "correct the file, or declare the type that the column really has"


def strict_csv(file: str | Path, columns: type | Mapping[str, Any]) -> pl.DataFrame:
    """Read a CSV file with a header, and parse every value by the declared type of its column.

    Nothing is guessed from the first rows: a value of another type is refused in any row, identifiers that are declared as text
    keep their leading zeros, and whole numbers are never read as floats. An empty field is null; ``""`` is an empty text.
    A boolean is ``true``, ``false``, ``1`` or ``0``, in any case.

    Parameters
    ----------
    file
        The file, in UTF-8.
    columns
        A pandera ``DataFrameModel``, or column → polars or Python type. Other columns of the file are ignored. A pandera column without a
        type is text.

    Returns
    -------
    polars.DataFrame
        The declared columns, in the order of the declaration.

    Raises
    ------
    DataError
        The file is not UTF-8, a column is missing or duplicated, or a row has another number of fields than the header. A value has another
        type, a whole number begins with a zero, or a time has a time zone although its column declares none, or lacks the declared one.
    """
    import polars as pl

    path, types = Path(file), _read_types(columns)
    data = path.read_bytes()
    _check_utf8(path, data)
    header = next(csv.reader(io.StringIO(data.decode("utf-8-sig"))), [])
    _check_header(path, header, types)
    try:
        text = pl.read_csv(data, infer_schema=False, columns=list(types))
    except pl.exceptions.PolarsError as error:
        raise _explain_ragged_row(path, data, len(header), error) from error
    return text.select(_cast(path, text[name], kind) for name, kind in types.items())


def verified_parquet(file: str | Path, *, sha256: str | None = None) -> pl.DataFrame:
    """Read a Parquet file and verify by checksums that its bytes are those that were written.

    Parameters
    ----------
    file
        The file.
    sha256
        The expected sha256 of the file. When None, it is read from ``<file>.sha256`` next to the file, in the format of ``sha256sum``.
        Without such a file, the pages must have checksums (``write_page_checksum=True`` in pyarrow). Page checksums are always verified.

    Raises
    ------
    DataError
        The file is truncated, its bytes do not match the checksum, or it has neither a sha256 nor page checksums.
    """
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(file)
    sha256_file = Path(f"{path}.sha256")
    expected = sha256 or (sha256_file.read_text(encoding="ascii").split()[0] if sha256_file.exists() else None)
    if expected is not None:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
        if actual != expected.lower():
            raise DataError(
                f"'{path}' is damaged: its sha256 is {actual[:12]}…, not {expected[:12]}…",
                hint="fetch the file again; if it was replaced on purpose, give its new sha256",
            )
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            if expected is None and (column := _find_column_without_checksum(path, parquet.metadata)):
                raise DataError(
                    f"'{path}': column '{column}' carries no page checksums, and there is no '{sha256_file.name}'",
                    hint=f"write it with write_page_checksum=True, or run `sha256sum {path.name} > {sha256_file.name}` where the file is made",
                )
            return pl.DataFrame(parquet.read())
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"'{path}' is damaged or truncated: {str(error).splitlines()[0]}", hint="fetch the file again, or write it again"
        ) from error


def _find_column_without_checksum(path: Path, metadata: Any) -> str:  # noqa: ANN401  (pyarrow's)
    """Return the first column with a row group whose first page has no checksum; "" when there is no such column."""
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(number)
                starts = [offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset]
                file.seek(min(starts))
                if not _has_crc(file.read(64)):
                    return str(chunk.path_in_schema)
    return ""


def _has_crc(header: bytes) -> bool:
    """Return True if a Parquet page header has a checksum.

    The header is encoded in Thrift's compact protocol: its fields 1 to 3 are numbers, and its field 4 is the checksum.
    """
    position, field = 0, 0
    while position < len(header) and header[position] & 0x0F == 5 and field < 4:  # 5: a 32-bit number
        field += header[position] >> 4
        position += 1
        while header[position] & 0x80:
            position += 1
        position += 1
    return field == 4


def _read_types(columns: type | Mapping[str, Any]) -> dict[str, pl.DataType]:
    """Return column → polars type; a pandera column without a type is text."""
    import polars as pl

    if isinstance(columns, type):
        schema = columns.to_schema()  # type: ignore[attr-defined]  # a pandera model
        return {name: pl.String() if c.dtype is None else c.dtype.type for name, c in schema.columns.items()}
    return pl.DataFrame(schema=dict(columns)).schema


def _check_utf8(path: Path, data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        bad = data[max(0, error.start - 10) : error.start + 10]
        raise DataError(
            f"'{path}' is not UTF-8: line {line} holds the byte {data[error.start]:#04x} in {bad!r}",
            hint="convert it where it comes from, e.g. `iconv -f latin1 -t utf-8`",
        ) from error


def _check_header(path: Path, header: list[str], types: Mapping[str, Any]) -> None:
    if duplicated := [name for name in header if header.count(name) > 1]:
        raise DataError(f"'{path}' has two columns named '{duplicated[0]}'", hint="rename one of them where the file is made")
    if missing := [name for name in types if name not in header]:
        raise DataError(f"'{path}' has no column '{missing[0]}'", hint=suggest_name(missing[0], header) + f"it has {', '.join(header)}")


def _explain_ragged_row(path: Path, data: bytes, fields: int, error: Exception) -> DataError:
    """Return the error for the first row with another number of fields than the header, or one with the text of ``error``."""
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    for number, row in enumerate(rows):
        if row and len(row) != fields:
            return DataError(
                f"'{path}': row {number} has {len(row)} fields, the header {fields}",
                hint="quote fields that contain a comma, or correct the row",
            )
    return DataError(f"'{path}' cannot be read: {str(error).splitlines()[0]}", hint="correct the file")


def _cast(path: Path, text: pl.Series, kind: pl.DataType) -> pl.Series:
    """Return a column of texts as the declared type; raise DataError for the first value that has another type."""
    import polars as pl

    if kind == pl.String:
        return text
    rule, hint = f"which is not of type {kind}", _TYPE_HINT
    if kind.is_integer() and (zeros := text.str.contains(r"^[+-]?0\d").fill_null(value=False)).any():
        raise _build_value_error(
            path,
            text,
            zeros,
            "a number with a leading zero, which would be lost",
            "if the column is an identifier, declare it as text; else remove the leading zeros",
        )
    if isinstance(kind, pl.Datetime):
        zoned = text.str.contains(_ZONED).fill_null(value=kind.time_zone is not None)
        mismatched = ~zoned if kind.time_zone else zoned
        if mismatched.any():
            problem = "a time without a time zone among those with one" if kind.time_zone else "a time with a time zone among those without"
            raise _build_value_error(path, text, mismatched, problem, "write every time with its zone, e.g. 2024-01-01T05:00:00Z")
        values = _parse_times(text, kind)
    elif kind == pl.Date:
        values = text.str.to_date(strict=False)
    elif kind == pl.Boolean:
        values = text.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None, return_dtype=pl.Boolean
        )
    else:
        values = text.cast(kind, strict=False)
    bad = values.is_null() & text.is_not_null()
    if bad.any():
        raise _build_value_error(path, text, bad, rule, hint)
    return values


def _parse_times(text: pl.Series, kind: pl.Datetime) -> pl.Series:
    """Return texts as times: ISO 8601, with ``T`` or a blank, with or without seconds; null for any other text or zone."""
    import polars as pl

    plain = text.str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T").str.replace(r"Z$", "+00:00")
    whole = plain.str.replace(r"T(\d\d:\d\d)($|[+-])", "T${1}:00${2}")
    form = "%Y-%m-%dT%H:%M:%S%.f%:z" if kind.time_zone else "%Y-%m-%dT%H:%M:%S%.f"
    parsed = whole.str.to_datetime(form, time_unit=kind.time_unit, strict=False)
    return parsed.dt.convert_time_zone(kind.time_zone) if kind.time_zone else parsed.cast(pl.Datetime(kind.time_unit))


def _build_value_error(path: Path, text: pl.Series, rows: pl.Series, rule: str, hint: str) -> DataError:
    number = int(rows.arg_max() or 0)
    return DataError(
        f"'{path}': column '{text.name}' of row {number + 1} is {text[number]!r}, {rule} ({rows.sum()} such row(s))", hint=hint
    )
