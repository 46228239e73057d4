"""The steps of prompts: the prompt, its evaluations and judges, its versions, its version in production, its traces and their quality."""

from collections.abc import Iterator
from typing import Any

from mlops_assets.orchestrate.compiler.release import BindBody, list_release_steps
from mlops_assets.orchestrate.core.graph import Node
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import StepSpec
from mlops_assets.orchestrate.llm.calibration_step import calibration_body, calibration_spec
from mlops_assets.orchestrate.llm.evaluation_step import evaluation_body, evaluation_spec
from mlops_assets.orchestrate.llm.gate_hashes import list_evaluations
from mlops_assets.orchestrate.llm.prompt_step import prompt_body, prompt_spec
from mlops_assets.orchestrate.llm.release import prompt_champion_body, prompt_version_body
from mlops_assets.orchestrate.llm.traces_step import traces_body, traces_node, traces_spec
from mlops_assets.orchestrate.monitoring.quality_reports import quality_body, quality_node, quality_spec
from mlops_assets.orchestrate.tables.automation import follow_inputs
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.llm.quality_monitor import QualityMonitor
from mlops_assets.values.platform import Platform

_RELEASE_TEXTS = ("The prompt, registered as a version once all gates of its evaluations have passed.", "The version in production.")


def list_prompt_steps(project: Project, platform: Platform, bind: BindBody) -> Iterator[StepSpec]:
    """Yield the steps of all prompts, evaluations and calibrations of a project.

    Parameters
    ----------
    project, platform
        The declarations, and the platform that the steps use.
    bind
        A function that returns the function that Dagster calls for a node and a body.
    """
    for prompt in project.select(Prompt):
        yield prompt_spec(prompt, bind(Node(prompt.key, None), prompt_body(prompt)))
        yield from _list_releases(project, prompt, bind)
    for calibration in project.select(Calibration):
        node = project.node(calibration)
        yield calibration_spec(calibration, node, bind(node, calibration_body(calibration)), follow_inputs(node, platform))
    for evaluation in project.select(PromptEvaluation):
        node = project.node(evaluation)
        yield evaluation_spec(evaluation, node, bind(node, evaluation_body(evaluation)), follow_inputs(node, platform))
    services = {service.name: service for service in project.select(PromptService)}
    for source in project.trace_sources:
        node, service = traces_node(source, platform), services.get(source.name)
        condition = follow_inputs(node, platform, ignored_assets=[service.key] if service else [])
        yield traces_spec(source, node, bind(node, traces_body(source)), condition, service)
    for monitor in project.select(QualityMonitor):
        node = quality_node(project, monitor)
        yield quality_spec(monitor, node, bind(node, quality_body(monitor)), follow_inputs(node, platform))


def _list_releases(project: Project, prompt: Prompt[..., Any], bind: BindBody) -> Iterator[StepSpec]:
    """Yield the steps that release a prompt; none for a prompt without evaluation, because no gate judges it."""
    if keys := [evaluation.key for evaluation in list_evaluations(project, prompt)]:
        yield from list_release_steps(prompt, keys, (prompt_version_body(prompt), prompt_champion_body(prompt)), bind, _RELEASE_TEXTS)
