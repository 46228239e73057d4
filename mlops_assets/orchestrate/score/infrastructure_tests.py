"""Tests of the rubric about the infrastructure of training and serving."""

from collections.abc import Callable, Mapping

from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts, format_day
from mlops_assets.stores.registry.records import CANARY, SHADOW
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.stores.registry.reproductions import open_reproductions
from mlops_assets.values.score.rubric import FULL, HALF

CI = "ci"  # the environment in which `mlops ci train` trains by default


def examine_reproduction(facts: ScoreFacts) -> RubricResult:
    """Look for the last verdict of training the champion again."""
    if facts.champion is None:
        return facts.missing_champion
    command = f"mlops reproduce {facts.model.name}@{facts.champion.version}"
    found = open_reproductions(facts.stores.platform.registry).find_latest(facts.model.name, facts.champion.digest)
    if found is None:
        return RubricResult(0, f"{facts.describe_champion()} was never trained again", command)
    text = f"{facts.model.name}@{found.version}: {found.verdict} on {format_day(found.at)}"
    if not found.is_reproducible:
        return RubricResult(0, f"{text}: {found.text}", command)
    schedule = f"reproduce_{facts.model.name}_schedule"
    if facts.is_on(schedule):
        return RubricResult(FULL, f"{text}; {schedule} repeats it")
    return RubricResult(HALF, text, f"switch {schedule} on in the UI (Automation)")


def examine_pipeline(facts: ScoreFacts) -> RubricResult:
    """Look for a candidate that the whole pipeline trained for a pull request."""
    found = open_registry(facts.stores.platform.registry, CI).candidate(facts.model.name)
    if found is None:
        return RubricResult(0, f"no candidate was trained in the environment {CI}", "mlops init . --ci github, or mlops ci train")
    record, _ = found
    return RubricResult(FULL, f"candidate {record.digest[:12]} was trained from its tables in {CI} on {format_day(record.created_at)}")


def examine_gates(facts: ScoreFacts) -> RubricResult:
    """Look for declared gates that the champion passed as they are declared now."""
    gates = facts.gates
    if not gates:
        return RubricResult(0, "no gate is declared", f'@ml.model(gates=[ml.Gate("{facts.model.metrics[0]}", at_least=…)])')
    if facts.champion is None:
        return facts.missing_champion
    changed = [g.name for g in gates if (e := facts.evidence.get(g.name)) is None or e.definition != g.definition or not e.passed]
    if changed:
        return RubricResult(0, f"{facts.describe_champion()} has no passed result of {', '.join(changed)} as declared now", "mlops run")
    return RubricResult(FULL, f"{', '.join(gate.name for gate in gates)} passed ({facts.describe_champion()})")


def examine_canary(facts: ScoreFacts) -> RubricResult:
    """Look for a comparison of the champion with its predecessor on real requests."""
    if facts.champion is None:
        return facts.missing_champion
    found = next((facts.evidence[kind] for kind in (CANARY, SHADOW) if kind in facts.evidence), None)
    if found is not None and found.passed:
        return RubricResult(FULL, f"{found.gate}: {found.reason} ({facts.describe_champion()})")
    text = f"{found.gate}: {found.reason}" if found else f"{facts.describe_champion()} was not compared on real requests"
    return RubricResult(0, text, "serve the candidate to a share of the requests first, and declare canary")


def examine_rollback(facts: ScoreFacts) -> RubricResult:
    """Look for a rollback, or for an intact version to return to."""
    if facts.champion is None:
        return facts.missing_champion
    environment = facts.stores.platform.environment
    history = facts.stores.registry.history(facts.model.name)
    past = [event for event in history if event.kind == "rollback" and event.environment == environment]
    if past:
        last = past[-1]
        return RubricResult(FULL, f"{last.actor} rolled back to version {last.version} on {format_day(last.at)}: {last.reason}")
    command = f"mlops models rollback {facts.model.name} --reason WHY"
    others = [v for v in facts.stores.registry.versions(facts.model.name) if v.was_champion and v.version != facts.champion.version]
    usable = [version for version in others if not version.damage]
    if not usable:
        return RubricResult(0, "no earlier champion can be restored", f"after the next promotion: {command}")
    return RubricResult(HALF, f"version {usable[-1].version} can be restored; no rollback was practised", command)


INFRASTRUCTURE_TESTS: Mapping[str, Callable[[ScoreFacts], RubricResult]] = {
    "reproducibility": examine_reproduction,
    "pipeline_test": examine_pipeline,
    "validation": examine_gates,
    "canary": examine_canary,
    "rollback": examine_rollback,
}
