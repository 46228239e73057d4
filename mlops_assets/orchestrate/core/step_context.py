"""What one step works on: its partitions, the state of the lake it reads, and what its function receives."""

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
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.asset_names import graph_key, select_nodes
from mlops_assets.values.features import FeatureView
from mlops_assets.values.function import Injection, Parameter, UserFunction
from mlops_assets.values.window import TimeWindow, window_of

T = TypeVar("T")

VERIFIED_KINDS = frozenset({"features", "training_set", "online", "model"})


@dataclass(frozen=True)
class StepContext:
    """One step of one run.

    Parameters
    ----------
    context
        Dagster's own.
    project, stores
        What is declared, and where it lives.
    node
        The table that is made.
    plain_inputs
        Frames of plain upstream assets, by parameter name.
    selected_keys
        Those of the step's partitions that are worked on now; all when None.
    shared_inputs
        Tables of the lake that were read for more partitions than these, by parameter name.
    trial_params
        Hyperparameters that a search has chosen, over those of the run configuration.
    leases
        What keeps the states of the lake readable that the step reads; closed when it ends.
    """

    context: dg.AssetExecutionContext
    project: Project
    stores: Stores
    node: Node
    plain_inputs: Mapping[str, object]
    selected_keys: tuple[str, ...] | None = None
    shared_inputs: Mapping[str, pl.DataFrame] = field(default_factory=dict, compare=False)
    trial_params: Mapping[str, Any] = field(default_factory=dict, compare=False)
    leases: ExitStack = field(default_factory=ExitStack, compare=False)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The partitions of this step, oldest first; one empty key when unpartitioned."""
        if self.selected_keys is not None:
            return self.selected_keys
        return ("",) if self.node.partitions is None else tuple(self.context.partition_keys)

    @cached_property
    def windows(self) -> tuple[tuple[str, TimeWindow | None], ...]:
        """Each partition with its span of event time."""
        return tuple((key, window_of(self.node.partitions, key)) for key in self.keys)

    @cached_property
    def window(self) -> TimeWindow:
        """The span of the whole step."""
        spans = [window for _, window in self.windows if window is not None]
        return TimeWindow(spans[0].start, spans[-1].end)

    @cached_property
    def snapshot(self) -> int:
        """The one state of the lake that everything in this step reads."""
        return self.leases.enter_context(self.stores.lake.lease_snapshot())

    @cached_property
    def outside_reads(self) -> OutsideReads:
        """What users' functions read in this step besides their arguments."""
        at = self.stores.platform
        folders = (place.removeprefix("file://") for place in (at.home, at.lake, at.artifacts, at.online))
        return OutsideReads(tuple(os.path.realpath(folder) + os.sep for folder in folders if "://" not in folder))

    @cached_property
    def _verified_reads(self) -> set[tuple[str, TimeWindow | None]]:
        """What this step has read and found undamaged."""
        return set()

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """What is about to be written, with the fingerprint of what it is made from."""
        made_from = compute_fingerprints(self.node, self.keys, self.stores.lake, snapshot=self.snapshot)
        return tuple(Partition(key, window, made_from.get(key, "")) for key, window in self.windows)

    @property
    def config(self) -> dict[str, Any]:
        """The step's run configuration, defaults filled in."""
        return {**(self.context.op_execution_context.op_config or {}), **self.trial_params}

    def with_params(self, params: Mapping[str, Any]) -> "StepContext":
        """Return the same step with other hyperparameters, on the same state of the lake."""
        other = replace(self, trial_params=dict(params))
        vars(other)["snapshot"] = self.snapshot
        return other

    def split_by_partition(self, function: UserFunction[..., Any]) -> Iterator["StepContext"]:
        """Yield the step of each partition alone; what the function reads is read once for all of them."""
        names = [p.name for p in function.tables if p.name not in self.plain_inputs]
        shared = {name: self.read(self.project.tables[name]) for name in names}
        for key in self.keys:
            plain = {name: _select_partition(value, key) for name, value in self.plain_inputs.items()}
            one = replace(self, selected_keys=(key,), shared_inputs=shared, plain_inputs=plain)
            vars(one)["outside_reads"] = self.outside_reads
            vars(one)["snapshot"] = self.snapshot
            yield one

    def call(self, function: UserFunction[..., Any], **given: object) -> Any:  # noqa: ANN401  (a user's function returns what it likes)
        """Call a user's function with everything it asks for."""
        return self._result(function, given, lambda value: value)

    def call_for_frame(self, function: UserFunction[..., Any]) -> pl.DataFrame:
        """Call a user's function and collect the frame that it returns."""
        return self._result(function, {}, lambda value: collect(value, f"'{self.node.key}'"))

    def _result(self, function: UserFunction[..., Any], given: Mapping[str, object], use: Callable[[Any], T]) -> T:
        """Call a user's function and use what it returns; a query that it returns runs there, so that its errors are the function's."""
        arguments = {p.name: given[p.name] if p.name in given else self._argument(p) for p in function.parameters}
        with translate_errors(function.function, self._place, lambda: list_columns(arguments.values())):
            with self.outside_reads.recording():
                value = function(**arguments)
            return use(value)

    @property
    def _place(self) -> str:
        """The asset and its partitions, for messages."""
        keys = [key for key in self.keys if key]
        if not keys:
            return f"'{self.node.key}'"
        return f"'{self.node.key}' partition '{keys[0]}'" if len(keys) == 1 else f"'{self.node.key}' partitions '{keys[0]}' to '{keys[-1]}'"

    def _argument(self, parameter: Parameter) -> object:
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
        """Read the rows of an upstream table that this step's partitions are made from; all columns when None are named."""
        edge = next((e for e in self.node.edges if e.parent == ref.key), None)
        if edge is None or self.node.partitions is None or ref.partitions is None:
            return self._explain_lake_error(ref, lambda: self._rows(ref, None, None, columns))
        wanted = [key for parents in map_partitions(edge, self.node.partitions, self.keys).values() for key in parents]
        span = _time_span(ref, wanted)
        if span is None:
            return self._explain_lake_error(ref, lambda: self.stores.lake.read(ref.key, columns=columns, snapshot=self.snapshot).clear())
        return self._explain_lake_error(ref, lambda: self._rows(ref, span, wanted, columns))

    def filter_for_partition(self, ref: TableRef, rows: pl.DataFrame, key: str) -> pl.DataFrame:
        """Return those of the rows that were read which one partition is made from."""
        edge = next((e for e in self.node.edges if e.parent == ref.key), None)
        if edge is None or self.node.partitions is None or ref.partitions is None:
            return rows
        span = _time_span(ref, [parent for parents in map_partitions(edge, self.node.partitions, [key]).values() for parent in parents])
        if span is None:
            return rows.clear()
        return rows.filter(pl.col(ref.event_timestamp or "").is_between(span.start, span.end, closed="left"))

    def _rows(self, ref: TableRef, window: TimeWindow | None, keys: Sequence[str] | None, columns: Sequence[str] | None) -> pl.DataFrame:
        """Read rows; those that a model will learn from or a service look up are held against their recorded hashes."""
        lake, time = self.stores.lake, ref.event_timestamp
        if self.node.key.split("/")[0] not in VERIFIED_KINDS or (ref.key, window) in self._verified_reads:
            return lake.read(ref.key, window=window, event_timestamp=time, snapshot=self.snapshot, columns=columns)
        wanted = lake.records(ref.key, snapshot=self.snapshot).keys() & set(list_partition_keys(ref.partitions) if keys is None else keys)
        parts = [Partition(key, window_of(ref.partitions, key)) for key in sort_keys(ref.partitions, wanted)]
        rows = read_verified(lake, ref.key, parts, window=window, event_timestamp=time, snapshot=self.snapshot)
        self._verified_reads.add((ref.key, window))
        return rows if columns is None else rows.select(columns)

    def load_layout(self, view: FeatureView, *, as_known: bool) -> AsOfLayout:
        """Return all rows of a feature view, ready to be looked up."""
        ref = TableRef(view.key)
        return self._explain_lake_error(ref, lambda: self.stores.layouts.load(view, snapshot=self.snapshot, as_known=as_known))

    def _explain_lake_error(self, ref: TableRef, read: Callable[[], T]) -> T:
        try:
            return read()
        except LakeError as error:
            raise DataError(
                f"'{self.node.key}' reads '{ref.key}', which cannot be read: {error.message}",
                hint=f"materialise '{graph_key(ref.key)}' first: mlops run --select '{select_nodes(ref.key)}'",
            ) from error


def _select_partition(value: object, key: str) -> object:
    """Return one partition of a plain asset, where its IO manager loads several as a dict."""
    return value[key] if isinstance(value, Mapping) and key in value else value


def _time_span(ref: TableRef, keys: Sequence[str]) -> TimeWindow | None:
    """Return the span of event time from the first of some partitions to the last; None when there is none."""
    ends = [window_of(ref.partitions, key) for key in (keys[0], keys[-1])] if keys else []
    spans = [span for span in ends if span is not None]
    return TimeWindow(min(s.start for s in spans), max(s.end for s in spans)) if spans else None
