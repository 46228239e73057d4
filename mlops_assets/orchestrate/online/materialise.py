"""The online store's step: the feature rows that a service may still look up, brought up to date by what has changed.

What the store holds is written down in the store itself, in the transaction that writes it: the *mark*, with the content hash of each
partition of the feature view. What is new is what the lake has recorded since, compared row by row, so that a row arrives whenever its
event was.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
import duckdb
import polars as pl

from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import drop_unreachable, sort_as_of
from mlops_assets.compute.tables.changes import find_changed_rows
from mlops_assets.compute.tables.content_hash import content_hash
from mlops_assets.compute.tables.stored_types import normalize
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.features.push import load_pending_rows, merge_pending
from mlops_assets.orchestrate.online.check import MATCHES, compare_with_lake
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import check_specs, publish_table
from mlops_assets.orchestrate.training.training_set import read_view_rows
from mlops_assets.stores.lake.verified_reads import read_view
from mlops_assets.stores.online.protocol import HISTORY, ViewState, WriteCounts
from mlops_assets.stores.online.records import RecordSchema
from mlops_assets.values.dataset import Table
from mlops_assets.values.features import FeatureView
from mlops_assets.values.window import TimeWindow, join_windows, window_of

ONLINE_CONFIG = {
    "full_rebuild": dg.Field(bool, default_value=False, description="Write the whole view anew instead of what has changed."),
    "verify_entities": dg.Field(
        int, default_value=1000, description="How many entities are compared with the lake afterwards; all when there are fewer."
    ),
}
_HASH_LETTERS = 16  # letters of a content hash that tell one content from another


@dataclass(frozen=True)
class Mark:
    """What a materialisation has seen.

    Parameters
    ----------
    definition
        Hash of what the rows depend on beside the lake.
    snapshot
        Of the lake.
    parts
        Partition of the feature view to its content.
    watermark
        The latest time at which any row became known.
    newest
        The latest event time.
    """

    definition: str
    snapshot: int
    parts: Mapping[str, str]
    watermark: datetime | None
    newest: datetime | None

    @property
    def text(self) -> str:
        """JSON."""
        times = [None if time is None else time.isoformat() for time in (self.watermark, self.newest)]
        return json.dumps([self.definition, self.snapshot, self.parts, *times], separators=(",", ":"))

    @classmethod
    def parsed(cls, text: str) -> "Mark":
        """Return the mark that :attr:`text` gave."""
        definition, snapshot, parts, *times = json.loads(text)
        watermark, newest = (None if time is None else datetime.fromisoformat(time) for time in times)
        return cls(definition, snapshot, parts, watermark, newest)


def online_views(project: Project) -> list[FeatureView]:
    """Return the feature views that go online: those that say so, whether or not a service of this project looks them up."""
    return [view for view in project.select(FeatureView) if view.online]


def online_key(view: FeatureView) -> str:
    """``online/<name>``."""
    return f"online/{view.name}"


def online_node(view: FeatureView) -> Node:
    """Return the online rows and the feature view they are made from."""
    return Node(online_key(view), None, (Edge(view.key, view.partitions, dg.AllPartitionMapping()),))


def online_checks(view: FeatureView) -> list[dg.AssetCheckSpec]:
    """Return the declaration of the comparison of what is online with what the lake holds."""
    return check_specs(online_key(view), (MATCHES,))


def publish_online(step: StepContext, view: FeatureView) -> Iterator[object]:
    """Put a feature view online and record in the lake what the online store holds."""
    yield from publish_table(step, Table(), partial(_update_online, step, view))


def _update_online(step: StepContext, view: FeatureView) -> CheckedTable:
    """Bring the store up to date, compare it with the lake, and return what the lake remembers of it."""
    state = step.stores.online.state(view.name)
    how = _OnlineUpdate(step, view, state)
    written = how.run(full=step.config["full_rebuild"])
    # A push that was logged while the view was written may have been online before it, and is not now.
    how.put_pending()
    outcome = compare_with_lake(step, view, step.config["verify_entities"])
    if not outcome.passed:  # whatever went wrong, the next attempt begins anew
        _write(step, view, read_view_rows(step, view).clear(), mark="")
    mark = how.mark
    facts: dict[str, Any] = {
        "view": view.name,
        "newest": mark.newest,
        "watermark": mark.watermark,
        "content": content_hash(normalize(pl.DataFrame({"partition": list(mark.parts), "content": list(mark.parts.values())}))),
    }
    frame = pl.DataFrame([facts], schema_overrides={"newest": _UTC, "watermark": _UTC})
    return CheckedTable(frame, [outcome], how.shown | _describe_update(written, mark, outcome))


_UTC = pl.Datetime("us", "UTC")


def _describe_update(written: WriteCounts, mark: Mark, outcome: Outcome) -> dict[str, Any]:
    age = "" if mark.newest is None else str(datetime.now(UTC) - mark.newest).partition(".")[0]
    return {
        "online rows": written.rows,
        "entities written": written.entities,
        "entities changed": written.changed,
        "watermark on created": str(mark.watermark or "none"),
        "newest event": str(mark.newest or "none"),
        "age of the newest": age,
        "compared with the lake": str(outcome.facts.get("compared", 0)),
    }


class _OnlineUpdate:
    """One materialisation: all of a view, or what has changed since the mark."""

    def __init__(self, step: StepContext, view: FeatureView, state: ViewState | None) -> None:
        self._step, self._view, self._state = step, view, state
        records = step.stores.lake.records(view.key, snapshot=step.snapshot)
        self._parts = {key: record.content_hash[:_HASH_LETTERS] for key, record in sorted(records.items())}
        self._definition = content_hash(pl.DataFrame({"d": [repr((view.entity.join_keys, view.features, *_times(view)))]}))[:_HASH_LETTERS]
        self._before = Mark.parsed(state.mark) if state is not None and state.mark else None
        self.mark = self._before or Mark("", 0, {}, None, None)
        self.shown: dict[str, Any] = {}

    def run(self, *, full: bool) -> WriteCounts:
        """Write what is to be written, and say how in ``shown``."""
        reason = "asked for" if full else self._reason()
        changes = None if reason else self._changes()
        if changes is None:
            self.shown = {"mode": f"full rebuild: {reason or 'an earlier state of the lake is no longer kept'}"}
            return self._all()
        added, gone = changes
        self._look(added)
        rebuilt = gone.select(self._view.entity.join_keys).unique()
        self.shown = {"mode": "incremental", "rows added": added.height, "rows gone": gone.height, "entities rebuilt": rebuilt.height}
        if rebuilt.height:
            added = pl.concat([added, self._rows_of(rebuilt)]).unique(maintain_order=True)
        if (pending := load_pending_rows(self._step, self._view)) is not None:
            self.shown["rows pushed, not yet in the lake"] = pending.height
            added = merge_pending(added, pending, self._view)
        if added.is_empty() and not rebuilt.height and self.mark == self._before:
            return WriteCounts(0, 0, 0)
        return _write(self._step, self._view, added, rebuilt=rebuilt, mark=self.mark.text)

    def put_pending(self) -> None:
        """Write what was pushed and is not in the lake yet."""
        pending = load_pending_rows(self._step, self._view)
        if pending is not None and pending.height:
            _write(self._step, self._view, pending, mark=None)

    def _reason(self) -> str:
        """Return why the whole view is to be written; empty when what has changed is enough."""
        if self._before is None or self._state is None:
            return "the first time"
        if self._before.definition != self._definition:
            return "the definition has changed"
        empty = sort_as_of(bind_rows(self._view, read_view_rows(self._step, self._view).clear()))
        return (
            "" if RecordSchema.from_layout(self._view.name, empty, self._view.feature_names) == self._state.schema else "types have changed"
        )

    def _changes(self) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """Return rows that came and rows that went since the mark, or None when that cannot be known."""
        assert self._before is not None  # noqa: S101  (_reason asked)
        before = self._before.parts
        differ = [key for key in {**before, **self._parts} if before.get(key) != self._parts.get(key)]
        try:
            old = self._read([key for key in differ if key in before], self._before.snapshot)
        except (LakeError, duckdb.Error):  # that snapshot has been expired
            return None
        return find_changed_rows(old, self._read(differ, self._step.snapshot))

    def _all(self) -> WriteCounts:
        rows = self._rows()
        self._look(rows)
        layout = sort_as_of(bind_rows(self._view, merge_pending(rows, load_pending_rows(self._step, self._view), self._view)))
        newest, now = layout["__valid_from"].max(), datetime.now(UTC)
        # Forecasts may lie ahead: what is reached from now must stay.
        ahead = newest - now if isinstance(newest, datetime) and newest > now else timedelta(0)
        kept = drop_unreachable(layout, self._view.entity.join_keys, None, HISTORY + ahead)
        view = self._view
        return self._step.stores.online.replace(
            view.name, kept, join_keys=view.entity.join_keys, features=view.feature_names, mark=self.mark.text
        )

    def _look(self, rows: pl.DataFrame) -> None:
        """Note what has been seen."""
        event, created = _times(self._view)
        before = self._before if self._before is not None and self._before.definition == self._definition else self.mark
        watermark, newest = _max_time(before.watermark, rows[created].max()), _max_time(before.newest, rows[event].max())
        self.mark = Mark(self._definition, self._step.snapshot, self._parts, watermark, newest)

    def _rows_of(self, entities: pl.DataFrame) -> pl.DataFrame:
        rows = self._rows()
        return rows.join(entities, on=entities.columns, how="semi", maintain_order="left")

    def _read(self, keys: Collection[str], snapshot: int) -> pl.DataFrame:
        """Return the rows of some partitions in a state of the lake."""
        view, lake = self._view, self._step.stores.lake
        spans: list[TimeWindow | None] = [*join_windows(span for key in keys if (span := window_of(view.partitions, key)))]
        if keys and view.partitions is None:
            spans = [None]
        parts = [read_view(lake, view, _columns(view), snapshot=snapshot, window=window) for window in spans]
        return pl.concat(parts) if parts else self._rows().clear()

    def _rows(self) -> pl.DataFrame:
        return read_view_rows(self._step, self._view).select(_columns(self._view))


def _write(
    step: StepContext, view: FeatureView, rows: pl.DataFrame, *, rebuilt: pl.DataFrame | None = None, mark: str | None
) -> WriteCounts:
    return step.stores.online.update(
        view.name,
        sort_as_of(bind_rows(view, rows)),
        join_keys=view.entity.join_keys,
        features=view.feature_names,
        rebuilt=rebuilt,
        mark=mark,
    )


def _columns(view: FeatureView) -> list[str]:
    return list(dict.fromkeys((*view.entity.join_keys, *_times(view), *view.feature_names)))


def _times(view: FeatureView) -> tuple[str, str]:
    """Return the columns with event and created time."""
    return view.event_timestamp, view.created_timestamp or view.event_timestamp


def _max_time(one: datetime | None, other: Any) -> datetime | None:  # noqa: ANN401  (the maximum of a column)
    return other if one is None else one if other is None else max(one, other)
