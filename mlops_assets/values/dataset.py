"""Declared tables: those that a function computes, those that another program writes, and the rules of their rows."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, Literal

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.function import CallPer, P, R, UserFunction
from mlops_assets.values.names import to_names, to_pairs, validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import dagster as dg

    from mlops_assets.values.quality import Quality

DAY_AHEAD = timedelta(days=1)
QUARANTINE = 0.05


@dataclass(frozen=True)
class Table:
    """The declared rules of a table's rows.

    Parameters
    ----------
    schema
        A pandera ``DataFrameModel`` with polars types; None when no columns are declared.
    partitions
        A Dagster time-window partitions definition, or None.
    key
        Columns that identify a row.
    event_timestamp
        The column with the time a row is about; needed when partitioned.
    known_at
        ``(column, time column)`` pairs: when the value of a column becomes known, where that is later than the row's own time.
    created_timestamp
        The column with the time a row became known, for late rows; the event time when None.
    allow_empty
        Whether a partition may have no row.
    quality
        Limits on the rows of every partition, or None.
    quarantine
        The share of a partition's rows that may be set aside when they break a rule on rows; None when a single such row refuses the write.
    max_future
        How far after now an event time may lie where no partition bounds it; None for no limit.
    keep
        Which row of a repeated key is kept, ``first`` or ``last``; None when a repeated key refuses the write.
    order_by
        The column that orders the rows of a repeated key; the order of the frame when None.
    """

    schema: type | None = None
    partitions: dg.PartitionsDefinition | None = None
    key: tuple[str, ...] = ()
    event_timestamp: str | None = None
    known_at: tuple[tuple[str, str], ...] = ()
    created_timestamp: str | None = None
    allow_empty: bool = False
    quality: Quality | None = None
    quarantine: float | None = None
    max_future: timedelta | None = None
    keep: Literal["first", "last"] | None = None
    order_by: str | None = None

    @property
    def schema_columns(self) -> tuple[str, ...]:
        """The names of the schema's columns, in its order; empty without a schema."""
        return tuple(_list_schema_columns(self.schema)) if self.schema is not None else ()

    @property
    def schema_types(self) -> dict[str, type]:
        """Column → Python type, for columns of the schema that are a float, int, bool or str, or a time in UTC (``datetime``).

        Empty when an annotation of the schema cannot be resolved at run time.
        """
        try:
            hints = {} if self.schema is None else typing.get_type_hints(self.schema, include_extras=True)
        except NameError:  # an annotation that only a type checker can resolve
            return {}
        kinds = {name: datetime if getattr(hint, "__metadata__", ())[-1:] == ("UTC",) else hint for name, hint in hints.items()}
        return {name: kind for name, kind in kinds.items() if name in self.schema_columns and kind in (float, int, bool, str, datetime)}

    @property
    def known_later(self) -> frozenset[str]:
        """The columns of ``known_at``, whose values become known later than their row."""
        return frozenset(column for column, _ in self.known_at)

    def check(self, what: str) -> None:
        """Raise DefinitionError for rules that are invalid, contradict each other or name a column that the schema lacks; ``what`` is the table."""
        if self.partitions is not None and self.event_timestamp is None:
            raise DefinitionError(
                f"{what} is partitioned but declares no event_timestamp", hint="name the column that says which partition a row belongs to"
            )
        if self.partitions is not None and not hasattr(self.partitions, "time_window_for_partition_key"):
            raise DefinitionError(
                f"{what} has partitions of type {type(self.partitions).__name__}",
                hint="use time-window partitions (hourly to yearly); other dimensions are ordinary columns",
            )
        if self.quality is not None and self.quality.learn_from is not None and self.partitions is None:
            raise DefinitionError(
                f"{what} learns its quality limits from partitions, but has none", hint="give partitions=, or declare the limits themselves"
            )
        if self.quarantine is not None and not 0 < self.quarantine <= 1:
            raise DefinitionError(
                f"{what}: quarantine={self.quarantine} is invalid",
                hint="set True, or the share of a partition's rows that may be quarantined, up to 1",
            )
        self._check_duplicates(what)
        for use, column in self._list_named_columns():
            if self.schema is not None and column not in self.schema_columns:
                raise DefinitionError(
                    f"{what}: {use} names the column '{column}', which its schema {self.schema.__name__} lacks",
                    hint=suggest_name(column, self.schema_columns) + f"it has {', '.join(self.schema_columns)}",
                )

    def _check_duplicates(self, what: str) -> None:
        if self.keep not in (None, "first", "last"):
            raise DefinitionError(
                f"{what}: keep={self.keep!r} is invalid", hint='set keep="first" or keep="last", the row of each key to keep'
            )
        if self.keep and not self.key:
            raise DefinitionError(f"{what} sets order_by= or keep=, but declares no key", hint="name the columns of the key in key=")

    def _list_named_columns(self) -> Iterator[tuple[str, str]]:
        """Yield argument and column, for each column that an argument names."""
        yield from (("key", column) for column in self.key)
        if self.event_timestamp:
            yield "event_timestamp", self.event_timestamp
        if self.quality is not None:
            yield from (("quality", column) for column in self.quality.columns)
        if self.created_timestamp:
            yield "created_timestamp", self.created_timestamp
        if self.order_by:
            yield "order_by", self.order_by
        for column, time_column in self.known_at:
            yield from (("known_at", column), ("known_at", time_column))


def _list_schema_columns(schema: type) -> Iterator[str]:
    """Yield the column names of a DataFrameModel, base classes first and aliases applied, without importing pandera."""
    seen: set[str] = set()
    for base in reversed(schema.__mro__):
        if base.__module__.split(".")[0] in {"pandera", "builtins", "typing"}:
            continue
        for name in getattr(base, "__annotations__", {}):
            if not name.startswith("_") and name != "Config" and name not in seen:
                seen.add(name)
                yield getattr(getattr(base, name, None), "alias", None) or name


@check_constructor
@dataclass(frozen=True)
class Dataset(Generic[P, R]):
    """A declared table that a function computes. Made by :func:`mlops_assets.dataset`; still callable as that function.

    See Also
    --------
    mlops_assets.dataset : Returns it.
    """

    function: UserFunction[P, R]
    table: Table
    partition_mappings: tuple[tuple[str, dg.PartitionMapping], ...] = ()
    options: AssetOptions = field(default=AssetOptions(), compare=False)
    call_per: CallPer = "partition"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def key(self) -> str:
        """``dataset/<name>``."""
        return f"dataset/{self.name}"

    @property
    def quarantine_key(self) -> str:
        """``quarantine/<name>``: the rows that were set aside."""
        return f"quarantine/{self.name}"

    @property
    def quality_key(self) -> str:
        """``quality/<name>``: the learned limits."""
        return f"quality/{self.name}"

    @property
    def labels_key(self) -> str:
        """``labels/<name>``: the labels that people gave to traces."""
        return f"labels/{self.name}"


@check_constructor
@dataclass(frozen=True, init=False)
class ExternalDataset:
    """A table of the lake that another program writes.

    This project observes it and never writes it: its rows are hashed and verified when they are read, and Dagster shows it as an external asset.

    Parameters
    ----------
    name
        The table ``dataset.<name>`` in the lake.
    schema, partitions, key, event_timestamp, known_at, created_timestamp, allow_empty, quality, max_future
        As in :func:`mlops_assets.dataset`.
    description
        Shown in the Dagster UI.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        The name is invalid, the declarations contradict each other, or ``quality`` learns its limits.

    See Also
    --------
    dataset : A table that a function of the project makes.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.ExternalDataset("bookings", key="booking_id").key
    'dataset/bookings'
    """

    name: str
    table: Table
    description: str = ""
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        schema: type | None = None,
        partitions: dg.PartitionsDefinition | None = None,
        key: str | Sequence[str] = (),
        event_timestamp: str | None = None,
        known_at: Mapping[str, str] | None = None,
        created_timestamp: str | None = None,
        allow_empty: bool = False,
        quality: Quality | None = None,
        max_future: timedelta | None = DAY_AHEAD,
        description: str = "",
        **options: object,
    ) -> None:
        set_ = object.__setattr__
        set_(self, "name", validate_name(name, "an external dataset"))
        set_(
            self,
            "table",
            Table(
                schema,
                partitions,
                to_names(key),
                event_timestamp,
                to_pairs(known_at),
                created_timestamp,
                allow_empty,
                quality,
                max_future=max_future,
            ),
        )
        set_(self, "description", description)
        set_(self, "options", AssetOptions.from_arguments(AssetArguments(**options)))  # type: ignore[typeddict-item]
        self.table.check(f"external dataset '{name}'")
        if quality is not None and quality.learn_from is not None:
            raise DefinitionError(
                f"external dataset '{name}' cannot learn its quality limits, because earlier partitions of it are not recorded",
                hint="declare the limits themselves, or make a dataset from it",
            )

    @property
    def key(self) -> str:
        """``dataset/<name>``."""
        return f"dataset/{self.name}"
