"""The step of a declared score: compute it, and show sections, tests and next steps as metadata."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.score.score_facts import ScoreFacts
from mlops_assets.orchestrate.score.scoring import score_model
from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.score.score import MLTestScore

StepFunction = Callable[[StepContext], Iterator[object]]
BindBody = Callable[[Node, StepFunction], Callable[..., Iterator[object]]]


def build_score_step(declared: MLTestScore, alerts: Alerts | None, bind: BindBody) -> StepSpec:
    """Return the step spec of the asset ``score/<model>_score``; it follows the champion in a run that makes both.

    Parameters
    ----------
    declared
        The declared score.
    alerts
        The alerts of the project; None without any.
    bind
        A function that returns the function that Dagster calls for a node and a body.
    """
    champion = f"champion/{declared.name}"
    return StepSpec(
        declared.key,
        bind(Node(declared.key, None, (Edge(champion, None),)), _build_body(declared, alerts)),
        group=declared.name,
        description=f"The ML Test Score of {declared.name}: the minimum of four sections with seven tests each.",
        kinds=frozenset({"report"}),
        deps=[dg.AssetDep(asset_key(champion))],
        options=declared.options,
    )


def _build_body(declared: MLTestScore, alerts: Alerts | None) -> StepFunction:
    def body(step: StepContext) -> Iterator[object]:
        report = score_model(ScoreFacts(step.project, step.stores, declared.model, step.context.instance, alerts))
        metadata: dict[str, Any] = {"score": report.score, "meaning": report.level, **report.sections, "tests": to_markdown(report.rows)}
        yield dg.MaterializeResult(asset_key(declared.key), metadata=metadata)

    return body
