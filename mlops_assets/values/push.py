"""Push sources, which are datasets with pushed rows instead of a function, and the feature views over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.dataset import DAY_AHEAD, Dataset, Table
from mlops_assets.values.function import UserFunction
from mlops_assets.values.names import to_names, validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    import dagster as dg

    from mlops_assets.values.features import FeatureView


@check_constructor
class PushSource(Dataset[..., Any]):
    """A dataset whose rows are pushed with :func:`mlops_assets.push` or ``POST /features/<view>`` of a service.

    When a push returns, its rows are in a log, and also in the online store if an online view reads the source. Materialising
    ``dataset/<name>`` writes the log into the lake.

    Parameters
    ----------
    name
        The table ``dataset.<name>`` in the lake.
    schema
        A pandera ``DataFrameModel`` with polars types. It is required, because nothing else gives the types of pushed rows.
    key
        Column or columns that identify what a row is about. Of two pushed rows with one key, both are kept when they became known at
        different times; when they became known at the same time, the later push replaces the earlier.
    event_timestamp
        The column with the time a row is about, UTC.
    created_timestamp
        The column with the time a row became known; the time of the push where a row omits it.
    partitions
        Time-window partitions of the event time, or None.
    max_future
        How far after now an event time may lie, one day by default; any time when None.
    description
        Shown in the Dagster UI.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        There is no schema or no key, or the declarations contradict each other.

    See Also
    --------
    push : Push rows to a source.
    dataset : A table made by a function.

    Examples
    --------
    >>> from typing import Annotated
    >>> import mlops_assets as ml
    >>> import pandera.polars as pa
    >>> import polars as pl
    >>> class Position(pa.DataFrameModel):
    ...     ship: str
    ...     at: Annotated[pl.Datetime, "us", "UTC"]
    ...     heard_at: Annotated[pl.Datetime, "us", "UTC"]
    ...     speed: float
    >>> ml.PushSource("positions", schema=Position, key=("ship", "at"), event_timestamp="at", created_timestamp="heard_at").key
    'dataset/positions'
    """

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        schema: type,
        key: str | Sequence[str],
        event_timestamp: str,
        created_timestamp: str,
        partitions: dg.PartitionsDefinition | None = None,
        max_future: timedelta | None = DAY_AHEAD,
        description: str = "",
        **options: object,
    ) -> None:
        about = to_names(key)
        if schema is None or not about:
            raise DefinitionError(f"push source '{name}' has no {'key' if about == () else 'schema'}", hint="give schema= and key=")
        table = Table(
            schema,
            partitions,
            tuple(dict.fromkeys((*about, created_timestamp))),
            event_timestamp,
            created_timestamp=created_timestamp,
            allow_empty=True,
            max_future=max_future,
        )
        table.check(f"push source '{name}'")

        def refuse_call() -> None:
            raise TypeError(f"rows of '{name}' are pushed: there is no function to call")

        refuse_call.__name__, refuse_call.__doc__ = validate_name(name, "a push source"), description or f"Rows of {name} that were pushed."
        super().__init__(UserFunction(refuse_call, ()), table, (), AssetOptions.from_arguments(AssetArguments(**options)))  # type: ignore[typeddict-item]
        object.__setattr__(self, "about", about)

    about: tuple[str, ...]  # the declared key; the key of the table also has the created timestamp

    def check_view(self, view: FeatureView) -> None:
        """Raise DefinitionError if pushed rows cannot be written to the online store unchanged, as the rows of a view."""
        view_times = (view.event_timestamp, view.created_timestamp)
        source_times = (self.table.event_timestamp, self.table.created_timestamp)
        if view_times != source_times:
            raise DefinitionError(
                f"'{view.key}' has the times {view_times[0]} and {view_times[1]}, but its source '{self.key}' has {source_times[0]} and {source_times[1]}",
                hint=f"set event_timestamp='{source_times[0]}', created_timestamp='{source_times[1]}' in the view",
            )
        if extra := [column for column in self.about if column not in (*view.entity.join_keys, view.event_timestamp)]:
            raise DefinitionError(
                f"'{view.key}' has one row for each {', '.join(view.entity.join_keys)} and {view.event_timestamp}, but its source '{self.key}' may have several: its key has '{extra[0]}'",
                hint="let the source's key be the join keys and the event time, or make a dataset between them",
            )
        columns = self.table.schema_columns
        if lacking := [c for c in (*view.entity.join_keys, *view.feature_names) if c not in columns]:
            raise DefinitionError(
                f"'{view.key}' needs the column '{lacking[0]}', which its source '{self.key}' lacks", hint=f"it has {', '.join(columns)}"
            )


_VIEWS: dict[int, dict[str, FeatureView]] = {}  # id() of a push source → name of a view → the view


def register_views(views: Sequence[FeatureView]) -> None:
    """Register the views over push sources among ``views``, so that :func:`views_of` finds them; others are ignored."""
    for view in views:
        if isinstance(view.source, PushSource):
            _VIEWS.setdefault(id(view.source), {})[view.name] = view


def views_of(source: PushSource) -> tuple[FeatureView, ...]:
    """Return the views over a push source that this process has registered."""
    return tuple(_VIEWS.get(id(source), {}).values())
