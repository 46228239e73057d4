"""Tests of the rubric about features and data."""

import math
from collections.abc import Callable, Mapping

from mlops_assets.compute.training.importance import IMPORTANCE, ColumnImportance, PermutationImportance
from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts, format_day
from mlops_assets.values.score.rubric import FULL

_ERRORS = 2.0  # standard deviations over the shuffles from the drop to the end of its interval
_MAX_NAMED = 5


def examine_schemas(facts: ScoreFacts) -> RubricResult:
    """Find datasets without a schema among those that the model reads; a schema is verified whenever rows are written."""
    datasets = facts.datasets
    if not datasets:
        return RubricResult(0, "the training set reads no declared dataset", "declare its tables with @ml.dataset(schema=…)")
    if missing := [dataset.name for dataset in datasets if dataset.table.schema is None]:
        return RubricResult(
            0, f"{', '.join(missing)} of {len(datasets)} datasets: no schema", f"@ml.dataset(schema=…) for {missing[0]}: a pandera model"
        )
    schemas = [f"{dataset.name}: {dataset.table.schema.__name__}" for dataset in datasets if dataset.table.schema is not None]
    records = {dataset.name: facts.stores.lake.records(dataset.key) for dataset in datasets}
    if unwritten := [name for name, written in records.items() if not written]:
        return RubricResult(0, f"{', '.join(schemas)}; no row of {unwritten[0]} was verified yet", "mlops run")
    newest = max(record.recorded_at for written in records.values() for record in written.values())
    return RubricResult(FULL, f"{', '.join(schemas)}; last verified {format_day(newest)}")


def examine_importance(facts: ScoreFacts) -> RubricResult:
    """Find features whose permutation importance is not above zero by twice its error."""
    if facts.champion is None:
        return facts.missing_champion
    stored = facts.record.get(IMPORTANCE)
    if not stored:
        return RubricResult(
            0, f"{facts.describe_champion()}: no permutation importance is recorded", f"mlops run --select {_candidate(facts)}"
        )
    measured = PermutationImportance.from_json(stored)
    useless = [_describe_interval(column) for column in measured.columns if not column.drop - _ERRORS * column.error > 0]
    what = f"permutation importance of {len(measured.columns)} columns on {measured.metric} ({facts.describe_champion()})"
    if measured.left_out:
        return RubricResult(
            0, f"{what}; {measured.left_out} columns were not measured", "use at most 100 columns, or declare feature_benefit"
        )
    if not useless:
        return RubricResult(FULL, f"{what}: the interval of each is above 0")
    more = f" and {len(useless) - _MAX_NAMED} more" if len(useless) > _MAX_NAMED else ""
    named = ", ".join(useless[:_MAX_NAMED]) + more
    return RubricResult(
        0, f"{what}: no benefit shown of {named}", "remove them from columns= and features= of the training set, then mlops run"
    )


def _describe_interval(column: ColumnImportance) -> str:
    if not math.isfinite(column.drop):
        return f"{column.column} (undefined)"
    return f"{column.column} ({column.drop - _ERRORS * column.error:.2g} to {column.drop + _ERRORS * column.error:.2g})"


def _candidate(facts: ScoreFacts) -> str:
    return f"'key:\"model/{facts.model.name}_candidate\"'"


DATA_TESTS: Mapping[str, Callable[[ScoreFacts], RubricResult]] = {
    "feature_schema": examine_schemas,
    "feature_benefit": examine_importance,
}
