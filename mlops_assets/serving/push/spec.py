"""Specification of a push source: its rules and its views; as text, it serves processes without the project file."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.dataset import Table
from mlops_assets.values.feature_types import PLAIN, embedding_length, item_type
from mlops_assets.values.push import PushSource, views_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from mlops_assets.values.features import FeatureView

_PLAIN_TYPES = {kind.__name__: kind for kind in PLAIN}


@dataclass(frozen=True)
class PushView:
    """One online view of a push source.

    Parameters
    ----------
    name, join_keys
        Name and join keys of the view.
    features
        Name and declared type of each feature.
    """

    name: str
    join_keys: tuple[str, ...]
    features: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class PushSpec:
    """The rules and views of a push source.

    Parameters
    ----------
    name
        Name of the source.
    table
        The rules of the rows, without the table's partitions: ``first`` and ``last`` bound event times instead.
    types
        Column and polars type, in the order of the schema.
    first, last
        Event times lie in [first, last), in UTC; None without a bound.
    views
        The online views of the source.
    """

    name: str
    table: Table
    types: tuple[tuple[str, pl.DataType], ...]
    first: datetime | None
    last: datetime | None
    views: tuple[PushView, ...]

    @classmethod
    def from_source(cls, source: PushSource, views: Sequence[FeatureView]) -> PushSpec:
        """Return the specification of a declared source.

        Raises
        ------
        DefinitionError
            A column is declared unique, which a single push cannot verify.
        """
        table, schema = source.table, source.table.schema.to_schema()  # type: ignore[union-attr]  # a pandera model
        for name, column in schema.columns.items():
            if column.unique:
                raise DefinitionError(
                    f"push source '{source.name}': column '{name}' is declared unique, which a single push cannot verify",
                    hint="drop unique=True; key= already identifies a row",
                )
        types = tuple((name, column.dtype.type) for name, column in schema.columns.items())
        rules = Table(
            table.schema, None, table.key, table.event_timestamp, created_timestamp=table.created_timestamp, max_future=table.max_future
        )
        online = tuple(PushView(v.name, v.entity.join_keys, v.features) for v in views if v.online)
        return cls(source.name, rules, types, *_find_bounds(table), online)

    @property
    def text(self) -> str:
        """The specification as JSON.

        Raises
        ------
        DefinitionError
            The schema has a check or a type that JSON cannot express.
        """
        rules = {"key": self.table.key, "event": self.table.event_timestamp, "created": self.table.created_timestamp}
        future = self.table.max_future
        views = [[v.name, v.join_keys, [[name, _encode_type(kind)] for name, kind in v.features]] for v in self.views]
        bounds = [None if time is None else time.isoformat() for time in (self.first, self.last)]
        facts = {
            "name": self.name,
            "types": _encode_schema(self.types),
            "columns": self._encode_rules(),
            "views": views,
            "bounds": bounds,
        }
        return json.dumps(facts | rules | {"max_future": None if future is None else future.total_seconds()})

    # Not pandera's own to_json: it drops checks that are functions, and raises TypeError for bounds that are times.
    def _encode_rules(self) -> list[Any]:
        """Return name, nullability and checks of each column; raise DefinitionError for a rule or type that JSON cannot express."""
        import pandera.polars as pa

        schema: Any = self.table.schema.to_schema()  # type: ignore[union-attr]  # a pandera model, or as one
        if schema.checks:
            raise self._make_portability_error("a check on the whole table")
        columns = []
        for name, column in schema.columns.items():
            checks = [[check.name, check.statistics] for check in column.checks]
            if functions := [check for check, _ in checks if check is None or not hasattr(pa.Check, check)]:
                raise self._make_portability_error(f"the check {functions[0]} of column '{name}', which is a function")
            if foreign := [check for check, argument in checks if not _is_json(argument)]:
                raise self._make_portability_error(f"the check {foreign[0]} of column '{name}', whose bounds JSON cannot express")
            if not json_type(column.dtype.type):
                raise self._make_portability_error(f"the type {column.dtype.type} of column '{name}', which JSON rows cannot contain")
            columns.append([name, column.nullable, checks])
        return columns

    def _make_portability_error(self, what: str) -> DefinitionError:
        return DefinitionError(
            f"push source '{self.name}' has {what}: a service, which does not import the project, cannot verify it",
            hint="use pandera's own checks, or push from Python only",
        )

    @classmethod
    def from_json(cls, text: str) -> PushSpec:
        """Return the specification that :attr:`text` describes."""
        import pandera.polars as pa

        facts = json.loads(text)
        types = _decode_schema(facts["types"])
        columns = {
            name: pa.Column(dict(types)[name], [getattr(pa.Check, check)(**arguments) for check, arguments in checks], nullable=nullable)
            for name, nullable, checks in facts["columns"]
        }
        future = None if facts["max_future"] is None else timedelta(seconds=facts["max_future"])
        schema: Any = _SchemaModel(pa.DataFrameSchema(columns))
        table = Table(schema, None, tuple(facts["key"]), facts["event"], created_timestamp=facts["created"], max_future=future)
        views = tuple(
            PushView(n, tuple(keys), tuple((f, _decode_type(label)) for f, label in features)) for n, keys, features in facts["views"]
        )
        first, last = (None if time is None else datetime.fromisoformat(time) for time in facts["bounds"])
        return cls(facts["name"], table, types, first, last, views)


class _SchemaModel:
    """A pandera schema with the interface of a pandera model."""

    def __init__(self, schema: Any) -> None:  # noqa: ANN401  (pandera's)
        self.validate = schema.validate
        self._schema = schema

    def to_schema(self) -> Any:  # noqa: ANN401
        """Return the wrapped schema, as pandera's models do."""
        return self._schema


def list_push_specs(views: Sequence[FeatureView]) -> tuple[str, ...]:
    """Return the specifications, as text, of the push sources of a service's online views.

    A source whose rules need the project's code is skipped: its rows can be pushed from Python only.
    """
    texts = []
    for source in {id(view.source): view.source for view in views if view.online and isinstance(view.source, PushSource)}.values():
        source_views = views_of(source) or tuple(view for view in views if view.source is source)
        with contextlib.suppress(DefinitionError):
            texts.append(PushSpec.from_source(source, source_views).text)
    return tuple(texts)


def find_push_log_folder(home: str, name: str) -> Path:
    """Return the folder of a source's push log."""
    return Path(home) / "push" / name


def _find_bounds(table: Table) -> tuple[datetime | None, datetime | None]:
    if table.partitions is None:
        return None, None
    partitions: Any = table.partitions
    return tuple(None if time is None else time.astimezone(UTC) for time in (partitions.start, partitions.end))  # type: ignore[return-value]


def _encode_type(kind: Any) -> list[Any]:  # noqa: ANN401
    """Return a feature type as JSON: name of the plain type, whether it is a list, and the list's fixed length or None."""
    item = item_type(kind)
    return [kind.__name__, False, None] if item is None else [item.__name__, True, embedding_length(kind)]


def _decode_type(label: Sequence[Any]) -> Any:  # noqa: ANN401
    name, listed, size = label
    plain: Any = _PLAIN_TYPES[name]
    kind: Any = list.__class_getitem__(plain) if listed else plain
    return kind if size is None else Annotated[kind, size]


def _encode_schema(types: Sequence[tuple[str, pl.DataType]]) -> str:
    import polars as pl

    data = io.BytesIO()
    pl.DataFrame(schema=dict(types)).write_ipc(data)
    return base64.b64encode(data.getvalue()).decode()


def _decode_schema(text: str) -> tuple[tuple[str, pl.DataType], ...]:
    import polars as pl

    return tuple(pl.read_ipc(io.BytesIO(base64.b64decode(text))).schema.items())


def _is_json(value: Any) -> bool:  # noqa: ANN401
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def json_type(dtype: Any) -> str:  # noqa: ANN401  (a polars type)
    """Return the type of a request's field for a column, such as ``int``; ``""`` where a JSON row cannot carry the column."""
    import polars as pl

    if isinstance(dtype, pl.Datetime):
        return "datetime"
    kinds = {"int": dtype.is_integer(), "float": dtype.is_float(), "bool": dtype == pl.Boolean, "str": dtype == pl.String}
    return next((kind for kind, fits in kinds.items() if fits), "")
