"""The step of a quality monitor: measure each version in each day, publish the table and the checks, and act on breaches."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from mlops_assets.compute.llm_traces.trace_tree import select_answers
from mlops_assets.compute.monitoring.answer_comparison import compare_measures
from mlops_assets.compute.monitoring.answer_quality import (
    MeasuredValues,
    QualityInputs,
    QualityVerdict,
    evaluate_measure,
    measure_answers,
)
from mlops_assets.compute.prompts.version import hash_judge
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.compute.training.lifecycle import CHAMPION, PROMOTION, ROLLED_BACK
from mlops_assets.errors import RegistryError
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.partitions import build_lookback_mapping
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.monitoring.judged_answers import (
    SampledScores,
    describe_judging,
    find_prices,
    judge_sample,
    read_judge_prices,
    withhold_verdicts,
)
from mlops_assets.orchestrate.monitoring.window_summary import WindowState, build_check_facts, build_summary_facts
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.values.dataset import Table
from mlops_assets.values.decisions import Decision
from mlops_assets.values.llm.quality_monitor import BEFORE, INPUT_DRIFT, ROLLBACK
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.stores.registry.records import AliasEvent
    from mlops_assets.values.llm.quality_monitor import QualityMonitor
    from mlops_assets.values.window import TimeWindow

WINDOW_START = "window_start"
LOOKBACK = 7 * 86_400.0  # seconds of earlier inputs that input drift compares with
MAX_ROLLBACK_AGE = timedelta(days=7)  # of the end of a day; a report of an older day does not move the champion
_WORST_FIRST = (BREACH, CANNOT, NOT_ENOUGH, GOOD)
_RULES = Table(event_timestamp=WINDOW_START)
_SCHEMA: dict[str, Any] = {
    WINDOW_START: pl.Datetime("us", "UTC"),
    "version": pl.Int64,
    "measure": pl.String,
    "answers": pl.Int64,
    "value": pl.Float64,
    "state": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True)
class QualityUnit:
    """The answers of one version on one day, measured and compared with the expectations.

    Parameters
    ----------
    partition, window
        The day.
    version
        The version of the prompt; None where the traces name none.
    answers
        The number of requests that were not refused.
    measured, verdicts
        The measures, and the verdicts on the expectations.
    sampled
        What the judges found.
    """

    partition: str
    window: TimeWindow
    version: int | None
    answers: int
    measured: tuple[MeasuredValues, ...]
    verdicts: tuple[QualityVerdict, ...]
    sampled: tuple[SampledScores, ...] = ()

    @property
    def title(self) -> str:
        """The day and the version."""
        return self.partition if self.version is None else f"{self.partition}, version {self.version}"

    @property
    def breaches(self) -> tuple[QualityVerdict, ...]:
        """The verdicts that are breaches."""
        return tuple(verdict for verdict in self.verdicts if verdict.state == BREACH)

    @property
    def state(self) -> str:
        """The worst state of the verdicts; without answers, not enough data."""
        states = {verdict.state for verdict in self.verdicts}
        return next((state for state in _WORST_FIRST if state in states), GOOD if self.answers else NOT_ENOUGH)


def quality_node(project: Project, monitor: QualityMonitor) -> Node:
    """Return the node of a quality report.

    The traces of the day are its input; for input drift and comparisons, also those of the week before; with judges, their calibrations.
    The prices of the judges' calls are not an input: they change the metadata, but no measure.
    """
    days = project.by_key[monitor.traces_key].partitions
    mapping = build_lookback_mapping(days, LOOKBACK) if _looks_back(monitor) else None
    prompt = monitor.prompt.name if monitor.prompt else ""
    # Unset fields are left out: a field that a later release adds leaves the reports of all past days as they are.
    expectations = [{name: value for name, value in vars(each).items() if value is not None} for each in monitor.expectations]
    facts = (expectations, prompt, monitor.context, monitor.language, monitor.max_scored)
    judges = [[(judge.name, hash_judge(judge)) for judge in monitor.judges], monitor.judged_answers] if monitor.judges else []
    definition = hashlib.sha256(repr((*facts, *judges)).encode()).hexdigest()
    calibrations = dict.fromkeys(calibration.key for judge in monitor.judges for calibration in project.calibrations_of(judge))
    edges = (Edge(monitor.traces_key, days, mapping, required=True), *(Edge(key, None) for key in calibrations))
    return Node(monitor.key, days, edges, definition=definition)


def _looks_back(monitor: QualityMonitor) -> bool:
    return any(expectation.measure == INPUT_DRIFT or expectation.rule == BEFORE for expectation in monitor.expectations)


def quality_spec(
    monitor: QualityMonitor, node: Node, run: Callable[..., Iterator[object]], condition: dg.AutomationCondition[Any]
) -> StepSpec:
    """Return the step spec of a quality report.

    Parameters
    ----------
    monitor, node
        The monitor and its node.
    run
        The function that Dagster calls.
    condition
        The default automation condition.
    """
    names = [expectation.name for expectation in monitor.expectations]
    deps = [dg.AssetDep(asset_key(edge.parent), partition_mapping=edge.mapping) for edge in node.edges]
    if (prices := find_prices(monitor)) is not None:
        deps.append(dg.AssetDep(asset_key(prices.key), partition_mapping=dg.AllPartitionMapping() if prices.table.partitions else None))
    return StepSpec(
        monitor.key,
        run,
        group=monitor.prompt.name if monitor.prompt else "llm",
        description=f"The quality of the answers in {monitor.traces_key}, by day and version.",
        kinds=frozenset({"report", "duckdb"}),
        partitions=node.partitions,
        deps=deps,
        checks=build_check_specs(monitor.key, names, warnings=names),
        options=monitor.options,
        condition=condition,
        code_version=node.definition,
    )


def quality_body(monitor: QualityMonitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that publishes quality reports."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, _RULES, lambda: _publish_quality(step, monitor))

    return body


def _publish_quality(step: StepContext, monitor: QualityMonitor) -> CheckedTable:
    """Measure the answers, evaluate the expectations, act on breaches, and return the table to commit."""
    prices = read_judge_prices(step, monitor)
    units = _measure_units(step, monitor)
    actions = [text for unit in units if unit.breaches and unit.version is not None for text in _act_on_breach(step, monitor, unit)]
    states = [WindowState(unit.partition, unit.state, _summarise(unit), unit.version) for unit in units]
    facts = build_summary_facts(states, "breached") | {"measures": to_markdown(_list_measures(units[-1]))}
    facts |= describe_judging(monitor, prices, [scores for unit in units for scores in unit.sampled])
    if actions:
        facts["decisions"] = to_markdown([{"decision": text} for text in actions])
    return CheckedTable(_build_rows(units), [_build_outcome(e.name, units, monitor.traces_key) for e in monitor.expectations], facts)


def _measure_units(step: StepContext, monitor: QualityMonitor) -> list[QualityUnit]:
    from mlops_assets.orchestrate.llm.calibration_results import list_refused_judges  # definitions load without it

    rows = select_answers(step.read(step.project.by_key[monitor.traces_key]), monitor.prompt.name if monitor.prompt else "")
    rows = rows.filter(pl.col("refusal").is_null())  # clients cause refusals: a quota or a denied topic says nothing about a version
    units = list[QualityUnit]()
    refused = list_refused_judges(step, monitor.judges)
    for partition, window in step.windows:
        if window is None:
            continue
        inside = rows.filter(pl.col("trace_started_at").is_between(window.start, window.end, closed="left"))
        begin = window.start - timedelta(seconds=LOOKBACK)  # a step of several days has read more
        earlier = rows.filter(pl.col("trace_started_at").is_between(begin, window.start, closed="left"))
        measures = frozenset(expectation.measure for expectation in monitor.expectations)
        inputs = QualityInputs(monitor.context, monitor.language, monitor.max_scored, earlier, measures)
        groups = inside.partition_by("prompt_version", maintain_order=True) if inside.height else [inside]
        day = [_judge_unit(step, monitor, _measure_unit(monitor, partition, window, group, inputs), group, refused) for group in groups]
        day = [_compare_unit(step, monitor, unit, pl.concat([earlier, inside]), inputs) for unit in day]
        units += sorted(day, key=lambda unit: unit.version or 0)
    return units


def _measure_unit(monitor: QualityMonitor, partition: str, window: TimeWindow, rows: pl.DataFrame, inputs: QualityInputs) -> QualityUnit:
    measured = {values.measure: values for values in measure_answers(rows, inputs)}
    bounds = [expectation for expectation in monitor.expectations if expectation.rule != BEFORE]
    verdicts = tuple(evaluate_measure(e, measured.get(e.measure, MeasuredValues(e.measure))) for e in bounds)
    version = rows["prompt_version"][0] if rows.height else None
    return QualityUnit(partition, window, version, rows.height, tuple(measured.values()), verdicts)


def _compare_unit(step: StepContext, monitor: QualityMonitor, unit: QualityUnit, rows: pl.DataFrame, inputs: QualityInputs) -> QualityUnit:
    """Return the unit with its comparisons with the version that was in production before, in the window and the week before it."""
    expectations = [expectation for expectation in monitor.expectations if expectation.rule == BEFORE]
    if monitor.prompt is None or not expectations:
        return unit
    previous = None if unit.version is None else _find_previous(step, monitor.prompt.name, unit.version)
    found = rows.clear() if previous is None else rows.filter(pl.col("prompt_version") == previous)
    measures = frozenset(expectation.measure for expectation in expectations)
    before = {values.measure: values for values in measure_answers(found, replace(inputs, measures=measures))}
    current = {values.measure: values for values in unit.measured}
    compared = (compare_measures(each, current[each.measure], before[each.measure]) for each in expectations)
    return replace(unit, verdicts=(*unit.verdicts, *compared))


def _judge_unit(step: StepContext, monitor: QualityMonitor, unit: QualityUnit, rows: pl.DataFrame, refused: dict[str, str]) -> QualityUnit:
    """Return the unit with the scores of the monitor's judges."""
    sampled = judge_sample(step, monitor, unit.title, rows)
    scores = {values.measure: values for each in sampled for values in each.measured}
    judged = tuple(
        evaluate_measure(verdict.expectation, scores[verdict.expectation.measure]) if verdict.expectation.measure in scores else verdict
        for verdict in unit.verdicts
    )
    measured = (*unit.measured, *scores.values())
    return replace(unit, measured=measured, verdicts=withhold_verdicts(judged, refused), sampled=tuple(sampled))


def _summarise(unit: QualityUnit) -> str:
    if unit.breaches:
        return "; ".join(verdict.reason for verdict in unit.breaches)
    return "; ".join(v.reason for v in unit.verdicts if v.state != GOOD) or f"{unit.answers} answers, every expectation holds"


def _list_measures(unit: QualityUnit) -> list[dict[str, Any]]:
    return [{"measure": m.measure, "value": m.value, "answers": len(m.values), "problem": m.problem or m.note} for m in unit.measured]


def _build_rows(units: Sequence[QualityUnit]) -> pl.DataFrame:
    rows = list[dict[str, Any]]()
    for unit in units:
        for measured in unit.measured:
            verdicts = [verdict for verdict in unit.verdicts if verdict.expectation.measure == measured.measure]
            verdict = min(verdicts, key=lambda verdict: _WORST_FIRST.index(verdict.state), default=None)
            rows.append(
                {
                    WINDOW_START: unit.window.start,
                    "version": unit.version,
                    "measure": measured.measure,
                    "answers": len(measured.values),
                    "value": measured.value if measured.value is None or math.isfinite(measured.value) else None,
                    "state": verdict.state if verdict else None,
                    "reason": verdict.reason if verdict else measured.problem or measured.note or None,
                }
            )
    return pl.DataFrame(rows, schema=_SCHEMA)


def _build_outcome(name: str, units: Sequence[QualityUnit], traces_key: str) -> Outcome:
    """Return the outcome of one expectation: it fails for a breach, and where the measure cannot be computed."""
    verdicts = [(u, v) for u in units for v in u.verdicts if v.expectation.name == name]
    failures = [(u, v) for u, v in verdicts if v.state in (BREACH, CANNOT)]
    return Outcome(
        name,
        passed=not failures,
        blocking=False,
        message="; ".join(f"{unit.title}: {verdict.reason}" for unit, verdict in failures),
        hint=f"read the rows of the day in '{traces_key}'",
        facts=build_check_facts([WindowState(u.partition, v.state, v.reason, u.version) for u, v in verdicts], "breached"),
    )


def _act_on_breach(step: StepContext, monitor: QualityMonitor, unit: QualityUnit) -> Iterator[str]:
    """Record the decision about a breach, roll the prompt back if the monitor says so, and yield what was done.

    A decision is carried out once: a version that a person promotes again is not rolled back for the same day. A decision that a kill
    left open is completed.
    """
    if monitor.prompt is None or unit.version is None:
        return
    decisions, name, version = step.stores.decisions, monitor.prompt.name, unit.version
    serious = [verdict for verdict in unit.breaches if verdict.expectation.measure != INPUT_DRIFT]
    rolls_back = monitor.on_breach == ROLLBACK and bool(serious)
    kind = ROLLBACK if rolls_back else "alert"
    identity = hashlib.sha256(f"{monitor.name}/{name}/{version}/{unit.partition}/{kind}".encode()).hexdigest()[:16]
    reason = "; ".join(verdict.reason for verdict in serious or unit.breaches)
    decisions.open(monitor.name, Decision(identity, name, version, unit.partition, unit.window.end, reason, (unit.partition,)))
    if next(decision for decision in decisions.decisions(name) if decision.id == identity).closed:
        return
    outcome = _roll_back(step, monitor, name, unit, f"{monitor.key}, {unit.title}: {reason}") if rolls_back else "alert"
    decisions.close(identity, outcome)
    step.context.log.warning(f"{unit.title} of '{name}': {reason}: {outcome}")
    yield f"{unit.title}: {reason}: {outcome}"


def _roll_back(step: StepContext, monitor: QualityMonitor, name: str, unit: QualityUnit, reason: str) -> str:
    """Make the previous champion the champion again if the breach is one of the current champion, and return what happened."""
    champion, version = step.stores.registry.champion(name), unit.version
    if version is None or champion is None or champion.version != version:
        return f"not rolled back: version {version} is not the champion"
    since = next(event.at for event in reversed(_list_champions(step, name)) if event.version == version)
    if unit.window.end <= since:
        return f"not rolled back: the day ended before version {version} became champion, on {since:%Y-%m-%d %H:%M} UTC"
    if unit.window.end < datetime.now(UTC) - MAX_ROLLBACK_AGE:
        return f"not rolled back: the day ended more than {MAX_ROLLBACK_AGE.days} days ago"
    if (earlier := _find_rolled_back(step, name, version)) is not None:
        return f"not rolled back: version {earlier}, which was in production before, was rolled back too"
    try:
        restored = step.stores.registry.rollback(name, actor=f"monitor {monitor.name}", reason=reason, expected=version)
    except RegistryError as error:
        return f"not rolled back: {error.message}"
    return f"rolled back to version {restored.version}"


def _find_rolled_back(step: StepContext, name: str, version: int) -> int | None:
    """Return the version that a rollback of ``version`` would restore if it was rolled back itself; None otherwise."""
    earlier = _find_previous(step, name, version)
    versions = step.stores.registry.versions(name)
    return next((each.version for each in versions if each.version == earlier and each.state == ROLLED_BACK), None)


def _find_previous(step: StepContext, name: str, version: int) -> int | None:
    """Return the version that was in production before the last promotion of a version; None without one."""
    promotions = [event for event in _list_champions(step, name) if (event.kind, event.version) == (PROMOTION, version)]
    return promotions[-1].previous if promotions else None


def _list_champions(step: StepContext, name: str) -> list[AliasEvent]:
    """Return the moves of the champion in the environment, oldest first."""
    registry, environment = step.stores.registry, step.stores.platform.environment
    return [event for event in registry.history(name) if (event.environment, event.alias) == (environment, CHAMPION)]
