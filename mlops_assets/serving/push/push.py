"""Push rows: verified like a batch, logged, and online when the call returns."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, DefinitionError, InstallationError, suggest_name
from mlops_assets.serving.logs.push_log import open_push_log
from mlops_assets.serving.push.spec import PushSpec, PushView, find_push_log_folder
from mlops_assets.stores.online.opening import open_online
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource, views_of
from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import polars as pl

    from mlops_assets.compute.tables.row_rules import RuleViolation

    Rows = pl.DataFrame | Iterable[Mapping[str, Any]] | Mapping[str, Any]

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


class PushError(DataError):
    """Pushed rows that are refused.

    ``public_message`` repeats no value, ``row`` is the index of the refused row, and ``field`` is its column; None and ``""`` when unknown.
    """

    def __init__(self, message: str, *, hint: str, public_message: str = "", row: int | None = None, field: str = "") -> None:
        super().__init__(message, hint=hint)
        self.public_message, self.row, self.field = public_message or message, row, field

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as a plain DataError with message and hint, which crosses a process boundary."""
        return DataError, (self.message,), {"hint": self.hint}


@dataclass(frozen=True)
class PushResult:
    """The result of one ``ml.push`` call.

    Parameters
    ----------
    id
        Id of the call, generated when none was given; repeating a call with its id changes nothing. Empty when there were neither rows
        nor an id.
    rows
        Number of logged rows; 0 for a repeated call.
    repeated
        Whether a call with this id was completed before.
    changed
        Number of entities whose online record changed, summed over the views.

    See Also
    --------
    mlops_assets.push : Returns it.
    """

    id: str
    rows: int
    repeated: bool = False
    changed: int = 0


@check_arguments
def push(target: PushSource | FeatureView, rows: Rows, *, id: str | None = None, platform: Platform | None = None) -> PushResult:  # noqa: A002  (the usual name)
    """Push rows to a source; if a row is refused, no row is pushed.

    Parameters
    ----------
    target
        A push source, or a feature view over one: the rows go to the source, and online for all of its views.
    rows
        A frame of polars or pandas, or mappings of column to value. Rows without a created time get the current time.
    id
        Identifies the call, so that a repeated call with the same id changes nothing. Without an id, a repeated call writes its rows
        again, which changes nothing if the rows have a created time.
    platform
        The platform that logs the rows and serves them online; ``Platform.from_env()`` when None.

    Returns
    -------
    PushResult
        The result of the call; its rows are on the disk and online.

    Raises
    ------
    DataError
        A row breaks a rule of the source; the message names row and rule. Nothing was pushed.
    DefinitionError
        The target is neither a push source nor a view over one, or a column of the source is declared unique.
    InstallationError
        The rows cannot be logged; or they are logged, but reach the online store only with the next materialisation.

    See Also
    --------
    PushSource : Declares what is pushed.
    lookup : Look pushed rows up online.

    Examples
    --------
    >>> import tempfile
    >>> from datetime import UTC, datetime
    >>> from typing import Annotated
    >>> import mlops_assets as ml
    >>> import pandera.polars as pa
    >>> import polars as pl
    >>> class Position(pa.DataFrameModel):
    ...     ship: str
    ...     at: Annotated[pl.Datetime, "us", "UTC"]
    ...     heard_at: Annotated[pl.Datetime, "us", "UTC"]
    ...     speed: float
    >>> positions = ml.PushSource("positions", schema=Position, key=("ship", "at"), event_timestamp="at", created_timestamp="heard_at")
    >>> row = {"ship": "Ada", "at": datetime(2024, 1, 1, tzinfo=UTC), "speed": 12.5}
    >>> ml.push(positions, row, platform=ml.Platform.at(tempfile.mkdtemp())).rows
    1
    """
    source = target.source if isinstance(target, FeatureView) else target
    if not isinstance(source, PushSource):
        raise DefinitionError(f"'{getattr(target, 'key', target)}' does not accept pushed rows", hint="use an ml.PushSource as its source")
    views = dict.fromkeys((*views_of(source), *([target] if isinstance(target, FeatureView) else [])))
    at = platform or Platform.from_env()
    return Pusher(_build_spec(source, tuple(views)), at.home, at.online).push(rows, id)


@cache
def _build_spec(source: PushSource, views: tuple[FeatureView, ...]) -> PushSpec:
    return PushSpec.from_source(source, views)


class Pusher:
    """Pushes rows to one source.

    Parameters
    ----------
    spec
        Specification of the source.
    home, online
        Home and online store of the platform.
    """

    def __init__(self, spec: PushSpec, home: str, online: str) -> None:
        self.spec = spec
        self._folder, self._online = find_push_log_folder(home, spec.name), online

    def push(self, rows: Rows, call: str | None = None) -> PushResult:
        """Verify rows, log them and write them online; parameters and errors as in :func:`push`."""
        log = open_push_log(self._folder)
        if call is not None and _is_known_call(self._folder, call):
            return PushResult(call, 0, repeated=True)
        now = time.time_ns() // 1000
        frame = self._verify(rows, now)
        if frame.is_empty():
            return PushResult(call or "", 0)
        call_id = call or uuid.uuid4().hex
        event = frame[self.spec.table.event_timestamp or ""].dt.epoch("us").to_list()
        try:
            log.append(call_id, now, {name: _list_values(frame[name]) for name in frame.columns}, event)
        except OSError as error:
            raise InstallationError(
                f"rows of '{self.spec.name}' cannot be logged: {error}", hint="free disk space, or make the folder writable"
            ) from error
        changed = sum(self._put_online(view, frame) for view in self.spec.views)
        if call is not None:
            _remember_call(self._folder, call)
        return PushResult(call_id, frame.height, changed=changed)

    def _put_online(self, view: PushView, frame: pl.DataFrame) -> int:
        """Write the rows to the online store and return the number of entities whose record changed."""
        layout = make_view_layout(self.spec, view, frame)
        store = open_online(self._online)
        return store.update(view.name, layout, join_keys=view.join_keys, features=[name for name, _ in view.features]).changed

    def _verify(self, rows: Rows, now: int) -> pl.DataFrame:
        """Return the rows in the types of the schema, with ``now`` (microseconds) for missing created times.

        Raise PushError for the first rule that a row breaks.
        """
        import polars as pl

        from mlops_assets.compute.features.feature_schema import cast_features
        from mlops_assets.compute.tables.verify import find_violations

        spec, table = self.spec, self.spec.table
        created = table.created_timestamp or ""
        frame = self._cast_columns(_make_frame(rows, dict(spec.types)))
        moment = pl.lit(now).cast(pl.Datetime("us", "UTC"))
        frame = frame.with_columns(pl.col(created).fill_null(moment)).select(name for name, _ in spec.types)
        _refuse_nul(frame)
        window = None if spec.first is None else TimeWindow(spec.first, spec.last or self._find_max_event_time())
        for finding in find_violations(frame, table, [("", window)]):
            raise self._make_error(finding, frame)
        for view in spec.views:
            try:
                cast_features(frame, view.features, f"features/{view.name}")
            except DataError as error:
                raise PushError(error.message, hint=error.hint, public_message=f"the rows do not fit the view '{view.name}'") from error
        return frame

    def _find_max_event_time(self) -> datetime:
        """Return the end of the allowed event times of a source without a last time: ``max_future`` from now, or never."""
        future = self.spec.table.max_future
        return _FOREVER if future is None else datetime.now(UTC) + future

    def _cast_columns(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return every column of the schema in its type; missing columns are null. Raise PushError for an unknown column."""
        import polars as pl

        types = dict(self.spec.types)
        if unknown := [name for name in frame.columns if name not in types]:
            hint = suggest_name(unknown[0], types) + f"a row has {', '.join(types)}"
            raise PushError(
                f"'{self.spec.name}' has no column '{unknown[0]}'; nothing was pushed",
                hint=hint,
                public_message="a row has an unknown field",
            )
        columns = []
        for name, dtype in types.items():
            column = frame[name] if name in frame.columns else pl.Series(name, [None] * frame.height, dtype=dtype)
            columns.append(column if column.dtype == dtype else self._cast(column, dtype))
        return pl.DataFrame(columns)

    def _cast(self, column: pl.Series, dtype: pl.DataType) -> pl.Series:
        """Cast a column to its type in the schema.

        Raise PushError where a number or a time would change, or a column of times has no time zone. Text and booleans are never cast.
        """
        import polars as pl

        name, hint = column.name, f"give '{column.name}' as {dtype}, its type in the schema"
        public_message = f"field '{name}' has another type"
        naive = isinstance(dtype, pl.Datetime) and (not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None)
        is_text = any(kind in (column.dtype, dtype) for kind in (pl.String, pl.Boolean))
        if column.dtype != pl.Null and (naive or is_text):
            raise PushError(
                f"column '{name}' is {column.dtype}, not {dtype}; nothing was pushed",
                hint=hint,
                public_message=public_message,
                field=name,
            )
        try:
            cast = column.cast(dtype, strict=True)
        except pl.exceptions.PolarsError as error:
            raise PushError(
                f"column '{name}' is {column.dtype}, not {dtype}; nothing was pushed",
                hint=hint,
                public_message=public_message,
                field=name,
            ) from error
        if (column.dtype.is_numeric() or column.dtype.is_temporal()) and (
            changed := (cast.cast(column.dtype, strict=False) != column).fill_null(value=False)
        ).any():
            row = int(changed.arg_true()[0])
            raise PushError(
                f"row {row}, column '{name}': {column[row]!r} is not a value of {dtype}; nothing was pushed",
                hint=hint,
                public_message=f"row {row}: {public_message}",
                row=row,
                field=name,
            )
        return cast

    def _make_error(self, finding: RuleViolation, frame: pl.DataFrame) -> PushError:
        row = None if finding.rows is None else int(finding.rows.arg_true()[0])
        where = "" if row is None else f"row {row} of {frame.height}: "
        return PushError(
            f"push to 'dataset/{self.spec.name}': {where}{finding.message}; nothing was pushed",
            hint=finding.hint if finding.check == "schema" else f"a row needs {finding.rule}",
            public_message=f"{where}field '{finding.column}' breaks the rule: {finding.rule}",
            row=row,
            field=finding.column,
        )


def make_view_layout(spec: PushSpec, view: PushView, frame: pl.DataFrame) -> pl.DataFrame:
    """Return pushed rows as the online store reads them for a view: cast to the view's types and sorted by join keys and time."""
    from mlops_assets.compute.features.feature_schema import cast_features
    from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of

    rows = cast_features(frame, view.features, f"features/{view.name}")
    names = tuple(name for name, _ in view.features)
    return sort_as_of(
        ViewRows(view.name, rows, view.join_keys, spec.table.event_timestamp or "", spec.table.created_timestamp, None, names)
    )


def _refuse_nul(frame: pl.DataFrame) -> None:
    """Raise PushError for the first text with a NUL character, which the lake cannot store."""
    import polars as pl

    for column in frame.select(pl.col(pl.String)):
        if (has_nul := column.str.contains("\0", literal=True).fill_null(value=False)).any():
            row, rule = int(has_nul.arg_true()[0]), "text without NUL characters"
            raise PushError(
                f"row {row}, column '{column.name}' holds a NUL character, which cannot be stored; nothing was pushed",
                hint=f"'{column.name}' is {rule}",
                public_message=f"row {row}: field '{column.name}' breaks the rule: {rule}",
                row=row,
                field=column.name,
            )


def _make_frame(rows: Rows, types: Mapping[str, Any]) -> pl.DataFrame:
    import polars as pl

    if isinstance(rows, pl.DataFrame):
        return rows
    if type(rows).__module__.startswith("pandas"):
        return _from_pandas(rows)
    listed: list[Mapping[str, Any]] = [rows] if isinstance(rows, Mapping) else list(rows)
    names = dict.fromkeys(name for row in listed for name in row)
    return pl.DataFrame([_make_column(name, [row.get(name) for row in listed], types.get(name)) for name in names])


def _from_pandas(rows: Any) -> pl.DataFrame:  # noqa: ANN401  (a pandas frame)
    from mlops_assets.compute.tables.strict_pandas import convert_pandas

    try:
        return convert_pandas(rows, "a push")
    except DataError as error:
        raise PushError(f"{error.message}; nothing was pushed", hint=error.hint) from error


def _make_column(name: str, values: list[Any], dtype: Any) -> pl.Series:  # noqa: ANN401
    """Return values in the type of the schema, else in the type that polars infers; raise PushError for values of several types."""
    import polars as pl

    if isinstance(dtype, pl.Datetime) and all(v is None or (isinstance(v, datetime) and v.tzinfo is not None) for v in values):
        return pl.Series(name, [None if v is None else v.astimezone(UTC) for v in values], dtype=pl.Datetime("us", "UTC")).cast(dtype)
    if isinstance(dtype, pl.Datetime) and any(isinstance(v, datetime) for v in values):
        raise PushError(
            f"column '{name}' has times without a zone, or mixes times with values of other types; nothing was pushed",
            hint="make every value a time with a zone: datetime(..., tzinfo=UTC)",
            public_message=f"field '{name}' must be a time with its zone",
            field=name,
        )
    try:
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        pass
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise PushError(
            f"column '{name}' has values of several types; nothing was pushed",
            hint=f"give '{name}' as {dtype}, its type in the schema",
            public_message=f"field '{name}' has another type",
            field=name,
        ) from error


def _list_values(column: pl.Series) -> list[Any]:
    """Return the values of a column; times are microseconds since 1970."""
    import polars as pl

    return (column.dt.cast_time_unit("us").to_physical() if isinstance(column.dtype, pl.Datetime) else column).to_list()


def _is_known_call(folder: Path, call: str) -> bool:
    with closing(_open_calls(folder)) as calls:
        return calls.execute("SELECT 1 FROM calls WHERE id = ?", [call]).fetchone() is not None


def _remember_call(folder: Path, call: str) -> None:
    with closing(_open_calls(folder)) as calls, calls:
        calls.execute("INSERT OR IGNORE INTO calls VALUES (?, ?)", [call, time.time_ns() // 1000])


def _open_calls(folder: Path) -> sqlite3.Connection:
    """Open the database of completed call ids; create it if missing."""
    connection = sqlite3.connect(folder / "calls.sqlite", timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS calls (id TEXT PRIMARY KEY, at INTEGER)")
    return connection
