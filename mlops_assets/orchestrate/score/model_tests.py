"""Tests of the rubric about the development of a model."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.compute.text import format_number
from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts, format_day
from mlops_assets.orchestrate.training.training_log import BASELINE
from mlops_assets.values.decisions import PERFORMANCE
from mlops_assets.values.gates.gate import Gate
from mlops_assets.values.score.rubric import FULL, HALF

_NEVER = "never"


def examine_review(facts: ScoreFacts) -> RubricResult:
    """Look for committed code and for a person who approved the champion."""
    if facts.champion is None:
        return facts.missing_champion
    git: Mapping[str, str] = facts.record.get("facts", {}).get("git", {})
    if not git.get("commit") or "diff" in git:
        problem = "changes that were not committed" if "diff" in git else "code in no git repository"
        return RubricResult(0, f"{facts.describe_champion()} was trained with {problem}", "git commit, then mlops run")
    approvals = facts.stores.registry.approvals(facts.model.name, facts.champion.version)
    if not (approvals and approvals[-1].approved):
        return RubricResult(
            0,
            f"commit {git['commit'][:12]} of {facts.describe_champion()} is reviewed by no recorded person",
            "@ml.model(approval=True), or declare the reviews of your pull requests",
        )
    last = approvals[-1]
    return RubricResult(FULL, f"commit {git['commit'][:12]}; {last.approver} approved version {last.version} on {format_day(last.at)}")


def examine_correlation(facts: ScoreFacts) -> RubricResult:
    """Look for a window whose online metric is compared with the metric on the holdout."""
    compared = [(m, p) for m in facts.monitors for p in m.performance if p.no_worse_than_reference_by is not None]
    if not compared:
        return RubricResult(
            0,
            "no monitor compares the metric of its windows with that of the holdout",
            f'ml.Performance("{facts.model.metrics[0]}", no_worse_than_reference_by=0.05) in the expectations of a monitor',
        )
    good = []
    for monitor, expected in compared:
        check, report = facts.read_check(monitor.performance_key, expected.name), facts.find_report(monitor, PERFORMANCE)
        if check is None or report is None:
            return RubricResult(0, f"{monitor.name} has evaluated no window of the champion", f"mlops monitor step {monitor.name}")
        if not check.passed:
            text = f"{monitor.name}, {report.partition}: {check.text or report.reason}"
            return RubricResult(0, text, f"mlops monitor show {monitor.name}")
        good.append(f"{monitor.name}: {expected.name} holds in {report.partition}, checked {format_day(check.at)}")
    return RubricResult(FULL, "; ".join(good))


def examine_search(facts: ScoreFacts) -> RubricResult:
    """Look for the search that chose the hyperparameters of the champion."""
    if facts.model.search is None:
        return RubricResult(0, "hyperparameters are fixed in the code", "@ml.model(search=ml.Search(…))")
    if facts.run is None:
        return facts.missing_champion
    if "search/best_trial" not in facts.run.params:
        return RubricResult(0, f"{facts.describe_champion()} was trained without the search", "mlops run")
    trial = facts.run.params["search/best_trial"]
    return RubricResult(FULL, f"trial {trial} of the search was the best ({facts.describe_champion()})")


def examine_staleness(facts: ScoreFacts) -> RubricResult:
    """Look for a replay that compares never retraining with another policy."""
    advice = "mlops replay --from DATE --to DATE --policy never --policy every:30d"
    found = max(_list_replays(facts), default=None)
    if found is None:
        return RubricResult(0, f"no replay of {facts.model.name} compares never retraining with another policy", advice)
    at, name, text = found
    automate = "replay in a scheduled job and declare: DeclaredTest('staleness', how='automated', where=…)"
    return RubricResult(HALF, f"replay {name} of {format_day(at)}: {text}", automate)


def _list_replays(facts: ScoreFacts) -> Iterator[tuple[datetime, str, str]]:
    """Yield time, name and means of each replay of the model with ``never`` and another policy; unreadable files are not evidence."""
    for file in (Path(facts.stores.platform.home) / "replays").glob("*/replay.json"):
        try:
            result = json.loads(file.read_bytes())
            if result["model"] != facts.model.name:
                continue
            means = {policy: _average(found["windows"], result["metric"]) for policy, found in result["policies"].items()}
            at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        measured = {policy: mean for policy, mean in means.items() if math.isfinite(mean)}
        if _NEVER in measured and len(measured) > 1:
            yield at, file.parent.name, ", ".join(f"{policy} {format_number(mean, 4)}" for policy, mean in measured.items())


def _average(windows: Any, metric: str) -> float:  # noqa: ANN401  (JSON)
    values = [float(window[metric]) for window in windows if window.get(metric) is not None]
    return sum(values) / len(values) if values else math.nan


def examine_baseline(facts: ScoreFacts) -> RubricResult:
    """Compare the champion with the recorded baseline, which ignores its input; a real simpler model must be declared."""
    if facts.run is None:
        return facts.missing_champion
    metric = facts.model.metrics[0]
    value, baseline = facts.run.metrics.get(metric), facts.record.get(BASELINE, {}).get(metric)
    if value is None or baseline is None:
        return RubricResult(
            0, f"{facts.describe_champion()} has no recorded baseline of {metric}", "mlops run, after a change of the model"
        )
    text = f"{metric} {format_number(value, 4)}, baseline (Dummy) {format_number(baseline, 4)} ({facts.describe_champion()})"
    advice = "compare with a linear model in a gate of your own (@ml.gate), and declare simpler_model"
    return RubricResult(HALF, f"{text}; the baseline ignores its input", advice) if value > baseline else RubricResult(0, text, advice)


def examine_slices(facts: ScoreFacts) -> RubricResult:
    """Look for gates on slices that the champion passed."""
    gates = [gate for gate in facts.gates if isinstance(gate, Gate) and gate.slice]
    if not gates:
        column = facts.model.slices[0] if facts.model.slices else "COLUMN"
        return RubricResult(
            0,
            "no declared gate judges a slice",
            f'ml.Gate("{facts.model.metrics[0]}", at_least=…, slice="{column}"), or declare your own gate',
        )
    if facts.champion is None:
        return facts.missing_champion
    for gate in gates:
        found = facts.evidence.get(gate.name)
        if found is None or found.definition != gate.definition or not found.passed:
            reason = "has not judged the champion" if found is None or found.definition != gate.definition else found.reason
            return RubricResult(0, f"{gate.name}: {reason}", "mlops run")
    return RubricResult(FULL, f"{', '.join(gate.name for gate in gates)} passed ({facts.describe_champion()})")


MODEL_TESTS: Mapping[str, Callable[[ScoreFacts], RubricResult]] = {
    "spec_review": examine_review,
    "metric_correlation": examine_correlation,
    "hyperparameters": examine_search,
    "staleness": examine_staleness,
    "simpler_model": examine_baseline,
    "slice_quality": examine_slices,
}
