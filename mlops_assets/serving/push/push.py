"""Taking pushed rows: verified as a batch is, logged, and online when the call returns."""

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

from mlops_assets.errors import DataError, DefinitionError, PlatformError, nearest
from mlops_assets.serving.logs.push_log import open_push_log
from mlops_assets.serving.push.spec import PushSpec, PushView, log_folder
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
    """Rows that are refused; ``told`` says so without repeating a value."""

    def __init__(self, message: str, *, hint: str, told: str = "", row: int | None = None, field: str = "") -> None:
        super().__init__(message, hint=hint)
        self.told, self.row, self.field = told or message, row, field

    def __reduce__(self) -> tuple[object, ...]:
        """Keep to the plain error when it crosses a process boundary."""
        return DataError, (self.message,), {"hint": self.hint}


@dataclass(frozen=True)
class Pushed:
    """What one call did.

    Parameters
    ----------
    id
        Of the call: given again, nothing changes.
    rows
        That are in the log.
    repeated
        Whether a call of this id had been there already.
    changed
        Entities whose online record is another one now, over all views.
    """

    id: str
    rows: int
    repeated: bool = False
    changed: int = 0


@check_arguments
def push(target: PushSource | FeatureView, rows: Rows, *, id: str | None = None, platform: Platform | None = None) -> Pushed:  # noqa: A002  (what everybody calls it)
    """Push rows to a source: all of them, or an error and none.

    Parameters
    ----------
    target
        A push source, or a feature view over one: the rows go to the source, and online for all of its views.
    rows
        A frame of polars or pandas, or mappings of column to value. The created time may be left out: it is now.
    id
        Names the call, so that repeating it changes nothing; without one, a repeated call writes the same rows once more, which changes
        nothing either when they say when they became known.
    platform
        Where everything lives; ``Platform.from_env()`` when None.

    Returns
    -------
    Pushed
        The rows are on the disk and online.

    Raises
    ------
    DataError
        A row breaks a rule of the source; the message names it. Nothing was pushed.
    DefinitionError
        The target is no push source, nor a view over one.
    PlatformError
        The rows cannot be logged; or they are logged, and go online with the next materialisation only.
    """
    source = target.source if isinstance(target, FeatureView) else target
    if not isinstance(source, PushSource):
        raise DefinitionError(f"'{getattr(target, 'key', target)}' takes no pushed rows", hint="let its source be a ml.PushSource")
    views = dict.fromkeys((*views_of(source), *([target] if isinstance(target, FeatureView) else [])))
    at = platform or Platform.from_env()
    return Pusher(_spec(source, tuple(views)), at.home, at.online).push(rows, id)


@cache
def _spec(source: PushSource, views: tuple[FeatureView, ...]) -> PushSpec:
    return PushSpec.of(source, views)


class Pusher:
    """Takes rows of one source.

    Parameters
    ----------
    spec
        Of the source.
    home, online
        Of the platform.
    """

    def __init__(self, spec: PushSpec, home: str, online: str) -> None:
        self.spec = spec
        self._folder, self._online = log_folder(home, spec.name), online

    def push(self, rows: Rows, call: str | None = None) -> Pushed:
        """Verify, log, and write online; parameters and errors as of :func:`push`."""
        log = self._log()
        if call is not None and _known(self._folder, call):
            return Pushed(call, 0, repeated=True)
        now = time.time_ns() // 1000
        frame = self._verified(rows, now)
        if frame.is_empty():
            return Pushed(call or "", 0)
        named = call or uuid.uuid4().hex
        event = frame[self.spec.table.event_timestamp or ""].dt.epoch("us").to_list()
        try:
            log.append(named, now, {name: _listed(frame[name]) for name in frame.columns}, event)
        except OSError as error:
            raise PlatformError(
                f"rows of '{self.spec.name}' cannot be logged: {error}", hint="make room, or the folder writable"
            ) from error
        changed = sum(self._put_online(view, frame) for view in self.spec.views)
        if call is not None:
            _remember(self._folder, call)
        return Pushed(named, frame.height, changed=changed)

    def _log(self) -> Any:  # noqa: ANN401
        return open_push_log(self._folder)

    def _put_online(self, view: PushView, frame: pl.DataFrame) -> int:
        layout = view_layout(self.spec, view, frame)
        store = open_online(self._online)
        return store.update(view.name, layout, join_keys=view.join_keys, features=[name for name, _ in view.features]).changed

    def _verified(self, rows: Rows, now: int) -> pl.DataFrame:
        import polars as pl

        from mlops_assets.compute.features.feature_schema import conform
        from mlops_assets.compute.tables.verify import find_violations

        spec, table = self.spec, self.spec.table
        created = table.created_timestamp or ""
        frame = self._typed(_frame(rows, dict(spec.types)))
        moment = pl.lit(now).cast(pl.Datetime("us", "UTC"))
        frame = frame.with_columns(pl.col(created).fill_null(moment)).select(name for name, _ in spec.types)
        _refuse_nul(frame)
        window = None if spec.first is None else TimeWindow(spec.first, spec.last or self._horizon())
        for finding in find_violations(frame, table, [("", window)]):
            raise self._refusal(finding, frame)
        for view in spec.views:
            try:
                conform(frame, view.features, f"features/{view.name}")
            except DataError as error:
                raise PushError(error.message, hint=error.hint, told=f"the rows do not fit the view '{view.name}'") from error
        return frame

    def _horizon(self) -> datetime:
        future = self.spec.table.max_future
        return _FOREVER if future is None else datetime.now(UTC) + future

    def _typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return every column of the schema in its type; what was not given is null."""
        import polars as pl

        types = dict(self.spec.types)
        if unknown := [name for name in frame.columns if name not in types]:
            hint = nearest(unknown[0], types) + f"a row has {', '.join(types)}"
            raise PushError(
                f"'{self.spec.name}' has no column '{unknown[0]}'; nothing was pushed", hint=hint, told="a row has an unknown field"
            )
        columns = []
        for name, dtype in types.items():
            given = frame[name] if name in frame.columns else pl.Series(name, [None] * frame.height, dtype=dtype)
            columns.append(given if given.dtype == dtype else self._cast(given, dtype))
        return pl.DataFrame(columns)

    def _cast(self, column: pl.Series, dtype: pl.DataType) -> pl.Series:
        """Widen a column to its type; what would change a value is refused."""
        import polars as pl

        name, hint = column.name, f"'{column.name}' is {dtype}"
        told = f"field '{name}' has another type"
        naive = isinstance(dtype, pl.Datetime) and (not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None)
        other = any(kind in (column.dtype, dtype) for kind in (pl.String, pl.Boolean))
        if column.dtype != pl.Null and (naive or other):
            raise PushError(f"column '{name}' is {column.dtype}; nothing was pushed", hint=hint, told=told, field=name)
        try:
            cast = column.cast(dtype, strict=True)
        except pl.exceptions.PolarsError as error:
            raise PushError(f"column '{name}' is {column.dtype}; nothing was pushed", hint=hint, told=told, field=name) from error
        if column.dtype.is_numeric() and (changed := (cast.cast(column.dtype, strict=False) != column).fill_null(value=False)).any():
            row = int(changed.arg_true()[0])
            raise PushError(
                f"row {row}, column '{name}': {column[row]!r} is no {dtype}; nothing was pushed",
                hint=hint,
                told=f"row {row}: {told}",
                row=row,
                field=name,
            )
        return cast

    def _refusal(self, finding: RuleViolation, frame: pl.DataFrame) -> PushError:
        row = None if finding.rows is None else int(finding.rows.arg_true()[0])
        where = "" if row is None else f"row {row} of {frame.height}: "
        return PushError(
            f"push to 'dataset/{self.spec.name}': {where}{finding.message}; nothing was pushed",
            hint=finding.hint if finding.check == "schema" else f"a row needs {finding.rule}",
            told=f"{where}field '{finding.column}' breaks the rule: {finding.rule}",
            row=row,
            field=finding.column,
        )


def view_layout(spec: PushSpec, view: PushView, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the layout of a view of pushed rows, in the types in which the view keeps them."""
    from mlops_assets.compute.features.feature_schema import conform
    from mlops_assets.compute.features.point_in_time import View, sort_as_of

    rows = conform(frame, view.features, f"features/{view.name}")
    names = tuple(name for name, _ in view.features)
    return sort_as_of(View(view.name, rows, view.join_keys, spec.table.event_timestamp or "", spec.table.created_timestamp, None, names))


def _refuse_nul(frame: pl.DataFrame) -> None:
    """Refuse text that the lake cannot store."""
    import polars as pl

    for column in frame.select(pl.col(pl.String)):
        if (bad := column.str.contains("\0", literal=True).fill_null(value=False)).any():
            row, rule = int(bad.arg_true()[0]), "text without NUL characters"
            raise PushError(
                f"row {row}, column '{column.name}' holds a NUL character, which cannot be stored; nothing was pushed",
                hint=f"'{column.name}' is {rule}",
                told=f"row {row}: field '{column.name}' breaks the rule: {rule}",
                row=row,
                field=column.name,
            )


def _frame(rows: Rows, types: Mapping[str, Any]) -> pl.DataFrame:
    import polars as pl

    if isinstance(rows, pl.DataFrame):
        return rows
    if type(rows).__module__.startswith("pandas"):
        return _from_pandas(rows)
    listed: list[Mapping[str, Any]] = [rows] if isinstance(rows, Mapping) else list(rows)
    names = dict.fromkeys(name for row in listed for name in row)
    return pl.DataFrame([_column(name, [row.get(name) for row in listed], types.get(name)) for name in names])


def _from_pandas(rows: Any) -> pl.DataFrame:  # noqa: ANN401  (a pandas frame)
    from mlops_assets.compute.tables.strict_pandas import convert_pandas

    try:
        return convert_pandas(rows, "a push")
    except DataError as error:
        raise PushError(f"{error.message}; nothing was pushed", hint=error.hint) from error


def _column(name: str, values: list[Any], dtype: Any) -> pl.Series:  # noqa: ANN401
    import polars as pl

    if isinstance(dtype, pl.Datetime) and all(v is None or (isinstance(v, datetime) and v.tzinfo is not None) for v in values):
        return pl.Series(name, [None if v is None else v.astimezone(UTC) for v in values], dtype=pl.Datetime("us", "UTC")).cast(dtype)
    if isinstance(dtype, pl.Datetime) and any(isinstance(v, datetime) for v in values):
        raise PushError(
            f"column '{name}' has times without a zone, or other values beside times; nothing was pushed",
            hint="give every time its zone: datetime(..., tzinfo=UTC)",
            told=f"field '{name}' must be a time with its zone",
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
            hint=f"'{name}' is {dtype}",
            told=f"field '{name}' has another type",
            field=name,
        ) from error


def _listed(column: pl.Series) -> list[Any]:
    import polars as pl

    return (column.dt.cast_time_unit("us").to_physical() if isinstance(column.dtype, pl.Datetime) else column).to_list()


def _known(folder: Path, call: str) -> bool:
    with closing(_calls(folder)) as calls:
        return calls.execute("SELECT 1 FROM calls WHERE id = ?", [call]).fetchone() is not None


def _remember(folder: Path, call: str) -> None:
    with closing(_calls(folder)) as calls, calls:
        calls.execute("INSERT OR IGNORE INTO calls VALUES (?, ?)", [call, time.time_ns() // 1000])


def _calls(folder: Path) -> sqlite3.Connection:
    """Open the ids of the calls that are done."""
    connection = sqlite3.connect(folder / "calls.sqlite", timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS calls (id TEXT PRIMARY KEY, at INTEGER)")
    return connection
