"""Check the declared services of a project, and list the steps of its prompt services."""

from collections.abc import Iterator

import dagster as dg

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.release import BindBody
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.serving.service import service_body
from mlops_assets.orchestrate.tables.automation import follow_gates
from mlops_assets.values.features import select_feature_views
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.serving import Service


def list_services(project: Project) -> list[Service | PromptService]:
    """Return the services of models and prompts."""
    return [*project.select(Service), *project.select(PromptService)]


def check_service(project: Project, service: Service) -> None:
    """Raise DefinitionError if a service looks up a view that is not online, or declares another key than a service of the same model."""
    other = next((s for s in project.select(Service) if s.model.key == service.model.key and s.row_key), service)
    if service.row_key and set(service.row_key) != set(other.row_key):
        keys = " and ".join(f"key=({', '.join(s.row_key)})" for s in (other, service))
        raise DefinitionError(
            f"'{other.key}' and '{service.key}' serve '{service.model.key}' with different keys: {keys}",
            hint="labels are joined by one key of the model: give the same key= to both services, or to one of them",
        )
    for view in select_feature_views(service.model.training_set.features):
        if not view.online:
            raise DefinitionError(
                f"'{service.key}' looks up '{view.key}', which is not online", hint=f"set online=True in the feature view '{view.name}'"
            )


def check_prompt_services(project: Project) -> None:
    """Raise DefinitionError if no evaluation of the project submits versions of the prompt of a service."""
    evaluated = {evaluation.prompt.key for evaluation in project.select(PromptEvaluation)}
    for service in project.select(PromptService):
        if service.prompt.key not in evaluated:
            raise DefinitionError(
                f"'{service.key}' serves '{service.prompt.key}', which has no evaluation, so no version of it is ever promoted",
                hint=f"add an ml.llm.PromptEvaluation of '{service.prompt.name}' to the list given to build_definitions",
            )


def list_prompt_service_steps(project: Project, bind: BindBody) -> Iterator[StepSpec]:
    """Yield the step of each prompt service, which starts the service or updates it to the champion.

    Parameters
    ----------
    project
        The declarations.
    bind
        A function that returns the function that Dagster calls for a node and a body.
    """
    for service in project.select(PromptService):
        champion = f"champion/{service.prompt.name}"
        prices = [] if service.prices is None else [dg.AssetDep(asset_key(service.prices.key), partition_mapping=dg.AllPartitionMapping())]
        node = Node(service.key, None, (Edge(champion, None),))
        yield StepSpec(
            service.key,
            bind(node, service_body(service)),
            group=service.prompt.name,
            description=f"The champion of {service.prompt.name} behind HTTP.",
            kinds=frozenset({"service", "llm"}),
            deps=[dg.AssetDep(asset_key(champion)), *prices],
            options=service.options,
            condition=follow_gates(),
        )
