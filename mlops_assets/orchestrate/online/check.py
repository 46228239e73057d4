"""The check that the online store returns the same values as the point-in-time join over the lake."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import ViewRows, point_in_time_join, sort_as_of
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.features.push import load_pending_rows, merge_pending
from mlops_assets.orchestrate.training.training_set import read_view_rows
from mlops_assets.stores.online.protocol import HISTORY, FeatureColumns, Lookup
from mlops_assets.values.features import FeatureView
from mlops_assets.values.push import PushSource

MATCHES = "matches_offline"
_AT = "__at"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def compare_with_lake(step: StepContext, view: FeatureView, max_entities: int) -> Outcome:
    """Return the outcome of comparing the online store with the lake, for a sample of entities at each time when their values change.

    A view of pushed rows is compared up to three times: rows that are pushed during a comparison can make it fail.

    Parameters
    ----------
    step, view
        The step, and the view that it materialised.
    max_entities
        The maximum number of entities to compare.
    """
    tries = 3 if isinstance(view.source, PushSource) else 1
    outcomes = (_compare_once(step, view, max_entities) for _ in range(tries))
    first = next(outcomes)
    return first if first.passed else next((outcome for outcome in outcomes if outcome.passed), first)


def _compare_once(step: StepContext, view: FeatureView, max_entities: int) -> Outcome:
    rows = merge_pending(read_view_rows(step, view), load_pending_rows(step, view), view)
    declared = bind_rows(view, rows)
    keys = list(view.entity.join_keys)
    entities = sort_as_of(declared).select(keys).unique(maintain_order=True)
    state = step.stores.online.state(view.name)
    if state is not None and state.entities != entities.height:
        return _build_failure(f"view '{view.name}' has {state.entities} entities online, and {entities.height} in the lake")
    chosen = entities if entities.height <= max_entities else entities.sample(max_entities, seed=step.snapshot)
    spine = _build_spine(declared, rows.join(chosen, on=keys, how="semi"))
    offline = point_in_time_join(spine, [declared], event_timestamp=_AT)
    reader = step.stores.online.reader([Lookup(view.name, view.feature_names, view.ttl)])
    at = spine[_AT].dt.epoch("us").to_list()
    (online,) = reader.lookup_many([list(spine.select(keys).iter_rows())], at)
    facts = {"entities": chosen.height, "compared": spine.height * len(view.feature_names)}
    return _find_difference(view, offline, online) or Outcome(MATCHES, passed=True, facts=facts)


def _build_spine(view: ViewRows, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs of entity and time to compare: each time at which the entity's values change, and the current time.

    Changes before the history of the online store are left out.
    """
    layout = sort_as_of(
        ViewRows(view.name, rows, *(getattr(view, n) for n in ("join_keys", "event_timestamp", "created_timestamp", "ttl", "features")))
    )
    now = datetime.now(UTC)
    since = min(layout["__valid_from"].max() or now, now) - HISTORY  # type: ignore[operator]  # a datetime
    keys = list(view.join_keys)
    times = layout.filter(pl.col("__valid_from") >= since).select(*keys, pl.col("__valid_from").alias(_AT))
    present = pl.lit(now).cast(pl.Datetime("us", "UTC")).alias(_AT)
    return pl.concat([times, layout.select(keys).unique(maintain_order=True).with_columns(present)])


def _find_difference(view: FeatureView, offline: pl.DataFrame, online: FeatureColumns) -> Outcome | None:
    """Return the failed outcome of the first value that differs; None when all values are equal, where NaN equals NaN."""
    for name in view.feature_names:
        expected = _convert_to_stored(offline[name])
        nulls = online.nulls[name].tolist()
        values = [None if null else value for value, null in zip(online.values[name].tolist(), nulls, strict=True)]
        for i, (offline_value, online_value) in enumerate(zip(expected, values, strict=True)):
            if offline_value != online_value and not (offline_value != offline_value and online_value != online_value):  # noqa: PLR0124  (NaN)
                row = offline.row(i, named=True)
                entity = {key: row[key] for key in view.entity.join_keys}
                return _build_failure(
                    f"feature '{name}' of view '{view.name}' is {online_value!r} online and {offline_value!r} in the lake for {entity} at {row[_AT]}"
                )
    return None


def _convert_to_stored(column: pl.Series) -> list[Any]:
    """Return values as the online store returns them: times in microseconds since 1970 (UTC)."""
    values = column.to_list()
    if isinstance(column.dtype, pl.Datetime):
        return [None if value is None else (value - _EPOCH) // timedelta(microseconds=1) for value in values]
    return values


def _build_failure(message: str) -> Outcome:
    hint = "materialise it again, which rebuilds the whole view; if it differs again, another process writes the view too"
    return Outcome(MATCHES, passed=False, message=message, hint=hint)
