"""The step that updates the online store with the changed feature rows that a service can still look up.

The store records its own state in the transaction that writes it: the *mark*, with the content hash of each partition of the feature view.
The next step compares changed partitions row by row, so late rows are found, no matter how old their events are.
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
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.orchestrate.training.training_set import read_view_rows
from mlops_assets.stores.lake.verified_reads import read_view
from mlops_assets.stores.online.protocol import HISTORY, ViewState, WriteCounts
from mlops_assets.stores.online.records import RecordSchema
from mlops_assets.values.dataset import Table
from mlops_assets.values.features import FeatureView
from mlops_assets.values.window import TimeWindow, join_windows, window_of

ONLINE_CONFIG = {
    "full_rebuild": dg.Field(bool, default_value=False, description="Rebuild the whole view instead of writing changed rows."),
    "verify_entities": dg.Field(
        int, default_value=1000, description="The maximum number of entities that are compared with the lake afterwards."
    ),
}
_HASH_LETTERS = 16  # enough to distinguish contents


@dataclass(frozen=True)
class Mark:
    """The state of the lake that a materialisation has written.

    Parameters
    ----------
    definition
        Hash of the view's definition.
    snapshot
        The snapshot of the lake.
    content_hashes
        Partition of the feature view → the first letters of its content hash.
    watermark
        The latest created time of the rows written so far; None before the first row.
    newest
        The latest event time of these rows; None before the first row.
    """

    definition: str
    snapshot: int
    content_hashes: Mapping[str, str]
    watermark: datetime | None
    newest: datetime | None

    @property
    def text(self) -> str:
        """The mark as JSON."""
        times = [None if time is None else time.isoformat() for time in (self.watermark, self.newest)]
        return json.dumps([self.definition, self.snapshot, self.content_hashes, *times], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Return the mark that :attr:`text` serialised."""
        definition, snapshot, content_hashes, *times = json.loads(text)
        watermark, newest = (None if time is None else datetime.fromisoformat(time) for time in times)
        return cls(definition, snapshot, content_hashes, watermark, newest)


def online_views(project: Project) -> list[FeatureView]:
    """Return the feature views with ``online=True``, even when no service of this project looks them up."""
    return [view for view in project.select(FeatureView) if view.online]


def online_key(view: FeatureView) -> str:
    """Return the key of a view's online asset, ``online/<name>``."""
    return f"online/{view.name}"


def online_node(view: FeatureView) -> Node:
    """Return the node of a view's online rows; the feature view is its input."""
    return Node(online_key(view), None, (Edge(view.key, view.partitions, dg.AllPartitionMapping()),))


def list_online_checks(view: FeatureView) -> list[dg.AssetCheckSpec]:
    """Return the spec of the check that compares the online store with the lake."""
    return build_check_specs(online_key(view), (MATCHES,))


def publish_online(step: StepContext, view: FeatureView) -> Iterator[object]:
    """Update the online store with a feature view, and record the new state in the lake."""
    yield from publish_table(step, Table(), partial(_update_online, step, view))


def _update_online(step: StepContext, view: FeatureView) -> CheckedTable:
    """Update the online store, compare it with the lake, and return the row that records the new state in the lake."""
    state = step.stores.online.state(view.name)
    update = _OnlineUpdate(step, view, state)
    written = update.run(full=step.config["full_rebuild"])
    # Writing the view may have replaced a push that was logged meanwhile.
    update.write_pending()
    outcome = compare_with_lake(step, view, step.config["verify_entities"])
    if not outcome.passed:  # without a mark, the next attempt rebuilds the view
        _write(step, view, read_view_rows(step, view).clear(), mark="")
    mark = update.mark
    facts: dict[str, Any] = {
        "view": view.name,
        "newest": mark.newest,
        "watermark": mark.watermark,
        "content": content_hash(
            normalize(pl.DataFrame({"partition": list(mark.content_hashes), "content": list(mark.content_hashes.values())}))
        ),
    }
    frame = pl.DataFrame([facts], schema_overrides={"newest": _UTC, "watermark": _UTC})
    return CheckedTable(frame, [outcome], update.metadata | _describe_update(written, mark, outcome))


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
    """One materialisation: a full rebuild of a view, or the changes since the mark.

    After :meth:`run`, ``mark`` is the mark to compare with next time, and ``metadata`` describes the update.
    """

    def __init__(self, step: StepContext, view: FeatureView, state: ViewState | None) -> None:
        self._step, self._view, self._state = step, view, state
        records = step.stores.lake.records(view.key, snapshot=step.snapshot)
        self._content_hashes = {key: record.content_hash[:_HASH_LETTERS] for key, record in sorted(records.items())}
        self._definition = content_hash(pl.DataFrame({"d": [repr((view.entity.join_keys, view.features, *_list_time_columns(view)))]}))[
            :_HASH_LETTERS
        ]
        self._before = Mark.parse(state.mark) if state is not None and state.mark else None
        self.mark = self._before or Mark("", 0, {}, None, None)
        self.metadata: dict[str, Any] = {}

    def run(self, *, full: bool) -> WriteCounts:
        """Write all rows, or only the changed rows, together with pushed rows that the lake lacks; write nothing if nothing changed."""
        reason = "requested" if full else self._explain_rebuild()
        changes = None if reason else self._find_changes()
        if changes is None:
            self.metadata = {"mode": f"full rebuild: {reason or 'an earlier snapshot of the lake has expired'}"}
            return self._write_all()
        added, removed = changes
        self._advance_mark(added)
        rebuilt = removed.select(self._view.entity.join_keys).unique()
        self.metadata = {"mode": "incremental", "rows added": added.height, "rows gone": removed.height, "entities rebuilt": rebuilt.height}
        if rebuilt.height:
            added = pl.concat([added, self._read_entities(rebuilt)]).unique(maintain_order=True)
        if (pending := load_pending_rows(self._step, self._view)) is not None:
            self.metadata["rows pushed, not yet in the lake"] = pending.height
            added = merge_pending(added, pending, self._view)
        if added.is_empty() and not rebuilt.height and self.mark == self._before:
            return WriteCounts(0, 0, 0)
        return _write(self._step, self._view, added, rebuilt=rebuilt, mark=self.mark.text)

    def write_pending(self) -> None:
        """Write pushed rows that are not in the lake yet."""
        pending = load_pending_rows(self._step, self._view)
        if pending is not None and pending.height:
            _write(self._step, self._view, pending, mark=None)

    def _explain_rebuild(self) -> str:
        """Return why the whole view must be rebuilt; empty when an incremental update suffices."""
        if self._before is None or self._state is None:
            return "the first materialisation"
        if self._before.definition != self._definition:
            return "the definition has changed"
        empty = sort_as_of(bind_rows(self._view, read_view_rows(self._step, self._view).clear()))
        return (
            "" if RecordSchema.from_layout(self._view.name, empty, self._view.feature_names) == self._state.schema else "types have changed"
        )

    def _find_changes(self) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """Return the rows added and the rows removed since the mark; None when the snapshot of the mark has expired."""
        assert self._before is not None  # noqa: S101  (_explain_rebuild checked it)
        before = self._before.content_hashes
        changed = [key for key in {**before, **self._content_hashes} if before.get(key) != self._content_hashes.get(key)]
        try:
            old = self._read_partitions([key for key in changed if key in before], self._before.snapshot)
        except (LakeError, duckdb.Error):  # that snapshot has expired
            return None
        return find_changed_rows(old, self._read_partitions(changed, self._step.snapshot))

    def _write_all(self) -> WriteCounts:
        rows = self._read_all()
        self._advance_mark(rows)
        layout = sort_as_of(bind_rows(self._view, merge_pending(rows, load_pending_rows(self._step, self._view), self._view)))
        newest, now = layout["__valid_from"].max(), datetime.now(UTC)
        # Rows of forecasts lie in the future; rows that are current now must stay.
        ahead = newest - now if isinstance(newest, datetime) and newest > now else timedelta(0)
        reachable = drop_unreachable(layout, self._view.entity.join_keys, None, HISTORY + ahead)
        view = self._view
        return self._step.stores.online.replace(
            view.name, reachable, join_keys=view.entity.join_keys, features=view.feature_names, mark=self.mark.text
        )

    def _advance_mark(self, rows: pl.DataFrame) -> None:
        """Move the mark to the step's snapshot; its times only move forward, to the latest times of these rows."""
        event, created = _list_time_columns(self._view)
        before = self._before if self._before is not None and self._before.definition == self._definition else self.mark
        watermark, newest = _max_time(before.watermark, rows[created].max()), _max_time(before.newest, rows[event].max())
        self.mark = Mark(self._definition, self._step.snapshot, self._content_hashes, watermark, newest)

    def _read_entities(self, entities: pl.DataFrame) -> pl.DataFrame:
        rows = self._read_all()
        return rows.join(entities, on=entities.columns, how="semi", maintain_order="left")

    def _read_partitions(self, keys: Collection[str], snapshot: int) -> pl.DataFrame:
        """Return the view's rows of some partitions in one snapshot of the lake; no rows without partitions."""
        view, lake = self._view, self._step.stores.lake
        spans: list[TimeWindow | None] = [*join_windows(span for key in keys if (span := window_of(view.partitions, key)))]
        if keys and view.partitions is None:
            spans = [None]
        frames = [read_view(lake, view, _list_columns(view), snapshot=snapshot, window=window) for window in spans]
        return pl.concat(frames) if frames else self._read_all().clear()

    def _read_all(self) -> pl.DataFrame:
        return read_view_rows(self._step, self._view).select(_list_columns(self._view))


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


def _list_columns(view: FeatureView) -> list[str]:
    return list(dict.fromkeys((*view.entity.join_keys, *_list_time_columns(view), *view.feature_names)))


def _list_time_columns(view: FeatureView) -> tuple[str, str]:
    """Return the names of a view's columns with the event time and the created time."""
    return view.event_timestamp, view.created_timestamp or view.event_timestamp


def _max_time(first: datetime | None, second: Any) -> datetime | None:  # noqa: ANN401  (the maximum of a column)
    return second if first is None else first if second is None else max(first, second)
