"""The context of a step: its partitions, the snapshot of the lake that it reads, and the arguments of its function."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import dagster as dg
import polars as pl

from mlops_assets.compute.features.layout import AsOfLayout
from mlops_assets.compute.tables.frames import collect, convert_frame, list_columns
from mlops_assets.compute.user_code.outside_reads import OutsideReads
from mlops_assets.compute.user_code.user_errors import translate_errors
from mlops_assets.errors import DataError, LakeError
from mlops_assets.orchestrate.core.graph import Node, compute_fingerprints
from mlops_assets.orchestrate.core.partitions import list_partition_keys, map_partitions, sort_keys
from mlops_assets.orchestrate.core.project import Project, TableRef
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.labels import LABELS, LabelScope, limit_labels
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.asset_names import build_graph_key, select_nodes
from mlops_assets.values.features import FeatureView
from mlops_assets.values.function import Injection, Parameter, UserFunction
from mlops_assets.values.window import TimeWindow, window_of

T = TypeVar("T")

VERIFIED_KINDS = frozenset(
    {"features", "training_set", "online", "model", "evaluation", "calibration"}
)  # steps of these kinds verify the hashes of what they read


@dataclass(frozen=True)
class StepContext:
    """One step of one run, on one snapshot of the lake; made for each call of a step's body.

    Parameters
    ----------
    context
        The execution context of Dagster.
    project, stores
        The declarations, and the stores of the platform.
    node
        The table that the step makes.
    plain_inputs
        Frames of plain upstream assets, by parameter name.
    selected_keys
        The partitions to make now; all partitions of the step when None.
    shared_inputs
        Tables that were read once for all partitions of the step, by parameter name.
    trial_params
        Hyperparameters of a search's trial; they override the run configuration.
    verified_reads
        (table, partition, content hash) triples that the step has read and verified; shared with copies of the step.
    leases
        Leases that protect the snapshots that the step reads from expiry; closed when the step ends.
    """

    context: dg.AssetExecutionContext
    project: Project
    stores: Stores
    node: Node
    plain_inputs: Mapping[str, object]
    selected_keys: tuple[str, ...] | None = None
    shared_inputs: Mapping[str, pl.DataFrame] = field(default_factory=dict, compare=False)
    trial_params: Mapping[str, Any] = field(default_factory=dict, compare=False)
    verified_reads: set[tuple[str, str, str]] = field(default_factory=set, compare=False)
    leases: ExitStack = field(default_factory=ExitStack, compare=False)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The partitions of this step, oldest first; one empty key when unpartitioned."""
        if self.selected_keys is not None:
            return self.selected_keys
        return ("",) if self.node.partitions is None else tuple(self.context.partition_keys)

    @cached_property
    def windows(self) -> tuple[tuple[str, TimeWindow | None], ...]:
        """(partition, window of event time) pairs, oldest first; the window is None when unpartitioned."""
        return tuple((key, window_of(self.node.partitions, key)) for key in self.keys)

    @cached_property
    def window(self) -> TimeWindow:
        """The window of event time from the first to the last partition; only for a partitioned step."""
        spans = [window for _, window in self.windows if window is not None]
        return TimeWindow(spans[0].start, spans[-1].end)

    @cached_property
    def snapshot(self) -> int:
        """The id of the lake snapshot that everything in this step reads; the first access leases it until the step ends."""
        return self.leases.enter_context(self.stores.lake.lease_snapshot())

    @cached_property
    def outside_reads(self) -> OutsideReads:
        """The recorder of files and variables that users' functions read in addition to their arguments; files of the stores are excluded."""
        platform = self.stores.platform
        folders = (url.removeprefix("file://") for url in (platform.home, platform.lake, platform.artifacts, platform.online))
        return OutsideReads(tuple(os.path.realpath(folder) + os.sep for folder in folders if "://" not in folder))

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions to write, each with the fingerprint of its inputs; the fingerprint is empty if an input is missing."""
        inputs = compute_fingerprints(self.node, self.keys, self.stores.lake, snapshot=self.snapshot)
        return tuple(Partition(key, window, inputs.get(key, "")) for key, window in self.windows)

    @property
    def config(self) -> dict[str, Any]:
        """The run configuration of the step with its defaults, overridden by ``trial_params``."""
        return {**(self.context.op_execution_context.op_config or {}), **self.trial_params}

    def with_params(self, params: Mapping[str, Any]) -> "StepContext":
        """Return a copy of the step with other hyperparameters, on the same snapshot."""
        changed = replace(self, trial_params=dict(params))
        vars(changed)["snapshot"] = self.snapshot
        return changed

    def split_by_partition(self, function: UserFunction[..., Any]) -> Iterator["StepContext"]:
        """Yield a step for each partition, on the same snapshot; the tables that the function asks for are read once for all partitions."""
        names = [p.name for p in function.tables if p.name not in self.plain_inputs]
        shared = {name: self.read(self.project.tables[name]) for name in names}
        for key in self.keys:
            plain = {name: _select_partition(value, key) for name, value in self.plain_inputs.items()}
            step = replace(self, selected_keys=(key,), shared_inputs=shared, plain_inputs=plain)
            vars(step)["outside_reads"] = self.outside_reads
            vars(step)["snapshot"] = self.snapshot
            yield step

    def call(self, function: UserFunction[..., Any], **overrides: object) -> Any:  # noqa: ANN401  (a user's function returns what it likes)
        """Call a user's function with the arguments of its signature; ``overrides`` replaces arguments by name."""
        return self._call_and_apply(function, overrides, lambda value: value)

    def call_for_frame(self, function: UserFunction[..., Any]) -> pl.DataFrame:
        """Call a user's function and collect the frame that it returns."""
        return self._call_and_apply(function, {}, lambda value: collect(value, f"'{self.node.key}'"))

    def _call_and_apply(self, function: UserFunction[..., Any], overrides: Mapping[str, object], use: Callable[[Any], T]) -> T:
        """Call a user's function and pass the result to ``use``; errors of either call name the function.

        A lazy query runs in ``use``.
        """
        arguments = {p.name: overrides[p.name] if p.name in overrides else self._resolve_argument(p) for p in function.parameters}
        with translate_errors(function.function, self._place, lambda: list_columns(arguments.values())):
            with self.outside_reads.recording(), limit_labels(self._label_scope):
                value = function(**arguments)
            return use(value)

    @property
    def _label_scope(self) -> LabelScope:
        table = next((edge.parent for edge in self.node.edges if edge.parent.startswith(LABELS)), "")
        return LabelScope(self.node.key, table, self.stores.platform, lambda: self.snapshot)

    @property
    def _place(self) -> str:
        """The name of the asset and its partitions, for messages."""
        keys = [key for key in self.keys if key]
        if not keys:
            return f"'{self.node.key}'"
        return f"'{self.node.key}' partition '{keys[0]}'" if len(keys) == 1 else f"'{self.node.key}' partitions '{keys[0]}' to '{keys[-1]}'"

    def _resolve_argument(self, parameter: Parameter) -> object:
        match parameter.injection:
            case Injection.WINDOW:
                return self.window
            case Injection.CONTEXT:
                return self.context
            case Injection.RESOURCE:
                return getattr(self.context.resources, parameter.name)
            case Injection.CONFIG:
                fields = parameter.annotation.model_fields  # type: ignore[attr-defined]  # a pydantic model
                return parameter.annotation(**{name: value for name, value in self.config.items() if name in fields})
        if parameter.name in self.plain_inputs:
            return convert_frame(collect(self.plain_inputs[parameter.name], f"asset '{parameter.name}'"), parameter.frame)
        ref = self.project.tables[parameter.name]
        rows = (
            self.filter_for_partition(ref, self.shared_inputs[parameter.name], self.keys[0])
            if parameter.name in self.shared_inputs
            else self.read(ref)
        )
        return convert_frame(rows, parameter.frame)

    def read(self, ref: TableRef, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read the rows of an upstream table that this step's partitions need; every column when ``columns`` is None.

        A table is read whole if it has no partitions, if the step has none, or if the step has no edge to it. Raise DataError if it cannot be read.
        """
        edge = next((e for e in self.node.edges if e.parent == ref.key), None)
        if edge is None or self.node.partitions is None or ref.partitions is None:
            return self._translate_lake_error(ref, lambda: self._read_rows(ref, None, None, columns))
        parent_keys = [key for parents in map_partitions(edge, self.node.partitions, self.keys).values() for key in parents]
        span = _find_time_span(ref, parent_keys)
        if span is None:
            return self._translate_lake_error(ref, lambda: self.stores.lake.read(ref.key, columns=columns, snapshot=self.snapshot).clear())
        return self._translate_lake_error(ref, lambda: self._read_rows(ref, span, parent_keys, columns))

    def filter_for_partition(self, ref: TableRef, rows: pl.DataFrame, key: str) -> pl.DataFrame:
        """Return the rows that one partition of the step needs, from rows that were read for several partitions."""
        edge = next((e for e in self.node.edges if e.parent == ref.key), None)
        if edge is None or self.node.partitions is None or ref.partitions is None:
            return rows
        span = _find_time_span(
            ref, [parent for parents in map_partitions(edge, self.node.partitions, [key]).values() for parent in parents]
        )
        if span is None:
            return rows.clear()
        return rows.filter(pl.col(ref.event_timestamp or "").is_between(span.start, span.end, closed="left"))

    def _read_rows(
        self, ref: TableRef, window: TimeWindow | None, keys: Sequence[str] | None, columns: Sequence[str] | None
    ) -> pl.DataFrame:
        """Read rows; a step of :data:`VERIFIED_KINDS` compares each partition with its recorded hash, once."""
        lake, time = self.stores.lake, ref.event_timestamp
        recorded = self._list_recorded(ref, keys) if self.node.key.split("/")[0] in VERIFIED_KINDS else {}
        new = {key for key, content in recorded.items() if (ref.key, key, content) not in self.verified_reads}
        if not new:
            return lake.read(ref.key, window=window, event_timestamp=time, snapshot=self.snapshot, columns=columns)
        partitions = {key: Partition(key, window_of(ref.partitions, key)) for key in sort_keys(ref.partitions, recorded)}
        unverified, verified = ([p for key, p in partitions.items() if (key in new) is is_new] for is_new in (True, False))
        rows = read_verified(lake, ref.key, unverified, window=window, event_timestamp=time, snapshot=self.snapshot, verified=verified)
        self.verified_reads.update((ref.key, key, recorded[key]) for key in new)
        return rows if columns is None else rows.select(columns)

    def _list_recorded(self, ref: TableRef, keys: Sequence[str] | None) -> dict[str, str]:
        """Return partition → recorded hash, for the recorded partitions among ``keys``; None stands for all keys."""
        needed = set(list_partition_keys(ref.partitions) if keys is None else keys)
        recorded = self.stores.lake.records(ref.key, snapshot=self.snapshot)
        return {key: record.content_hash for key, record in recorded.items() if key in needed}

    def load_layout(self, view: FeatureView, *, as_known: bool) -> AsOfLayout:
        """Return the as-of layout of a feature view, with all its rows at the step's snapshot; raise DataError if it cannot be read."""
        ref = TableRef(view.key)
        return self._translate_lake_error(ref, lambda: self.stores.layouts.load(view, snapshot=self.snapshot, as_known=as_known))

    def _translate_lake_error(self, ref: TableRef, read: Callable[[], T]) -> T:
        try:
            return read()
        except LakeError as error:
            raise DataError(
                f"'{self.node.key}' reads '{ref.key}', which cannot be read: {error.message}",
                hint=f"materialise '{build_graph_key(ref.key)}' first: mlops run --select '{select_nodes(ref.key)}'",
            ) from error


def _select_partition(value: object, key: str) -> object:
    """Return one partition of a plain asset whose IO manager loads several as a dict; return any other value unchanged."""
    return value[key] if isinstance(value, Mapping) and key in value else value


def _find_time_span(ref: TableRef, keys: Sequence[str]) -> TimeWindow | None:
    """Return the event time from the start of the first partition to the end of the last; None without partitions."""
    ends = [window_of(ref.partitions, key) for key in (keys[0], keys[-1])] if keys else []
    spans = [span for span in ends if span is not None]
    return TimeWindow(min(s.start for s in spans), max(s.end for s in spans)) if spans else None
