"""Compile each declaration to its Dagster assets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import dagster as dg

from mlops_assets.compute.user_code.view_source import build_view_source
from mlops_assets.orchestrate.compiler.release import list_deps, list_release_steps
from mlops_assets.orchestrate.compiler.services import list_prompt_service_steps
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.io_manager import lake_io_manager
from mlops_assets.orchestrate.core.project import Project, build_view_rules
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key, compile_step, function_requirements
from mlops_assets.orchestrate.features.feature_tables import publish_feature_view
from mlops_assets.orchestrate.features.freshness import build_freshness_policy
from mlops_assets.orchestrate.features.push import build_push_node, list_push_checks, publish_pushed_rows
from mlops_assets.orchestrate.monitoring.estimates import build_estimate_body, build_estimate_node, list_estimate_checks
from mlops_assets.orchestrate.monitoring.reports import (
    drift_body,
    drift_node,
    list_drift_checks,
    list_performance_checks,
    performance_body,
    performance_node,
)
from mlops_assets.orchestrate.monitoring.system_reports import list_system_checks, system_body, system_node
from mlops_assets.orchestrate.online.materialise import (
    ONLINE_CONFIG,
    list_online_checks,
    online_key,
    online_node,
    online_views,
    publish_online,
)
from mlops_assets.orchestrate.predictions.batch_prediction import list_prediction_checks, prediction_body
from mlops_assets.orchestrate.serving.service import list_served_checks, publish_served, served_node, service_body
from mlops_assets.orchestrate.tables.automation import follow_gates, follow_inputs
from mlops_assets.orchestrate.tables.external import require_valid
from mlops_assets.orchestrate.tables.tables import build_table_check_specs, publish_dataset
from mlops_assets.orchestrate.training.gates import gather_gates, hash_gates
from mlops_assets.orchestrate.training.model import list_model_checks, model_body
from mlops_assets.orchestrate.training.train_windows import find_retraining
from mlops_assets.orchestrate.training.training_set import AS_OF_CONFIG, list_training_set_checks, training_set_body
from mlops_assets.orchestrate.upkeep.upkeep import NODE, upkeep_body, upkeep_step
from mlops_assets.orchestrate.versions.registration import champion_body, version_body
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Computed, DbtModel
from mlops_assets.values.features import FeatureView, select_stored_views
from mlops_assets.values.function import Injection, UserFunction
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource
from mlops_assets.values.score.score import MLTestScore
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import TrainingSet
from mlops_assets.values.upkeep import Upkeep

DATA_GROUP = "data"
_LLM_VALUES = "mlops_assets.values.llm."
_RELEASE_TEXTS = ("The candidate, registered as a version once all its gates have passed.", "The version that predicts.")
StepFunction = Callable[[StepContext], Iterator[object]]


class Compiler:
    """Compiles the declarations of one project.

    Parameters
    ----------
    project, platform
        The declarations, and the platform that the steps use.
    alerts
        The alerts of the project; None without any.
    """

    def __init__(self, project: Project, platform: Platform, alerts: Alerts | None = None) -> None:
        self.alerts = alerts
        self.project = project
        self.platform = platform
        manager, self.io = lake_io_manager(platform)
        manager.add_tables(project)

    def compile_assets(self) -> Iterator[dg.AssetsDefinition]:
        """Yield the assets of all steps except the upkeep and dbt; external datasets have no step."""
        for dataset in self.project.select(Dataset):
            yield self._compile_pushed(dataset) if isinstance(dataset, PushSource) else self._compile_dataset(dataset)
        for view in self.project.select(FeatureView):
            if not isinstance(view.source, DbtModel):
                yield self._compile_feature_view(view)
        for training_set in self.project.select(TrainingSet):
            yield self._compile_training_set(training_set)
        for model in self.project.select(Model):
            yield from self._compile_model(model)
        for batch in self.project.select(BatchPrediction):
            yield self._compile_batch(batch)
        for view in online_views(self.project):
            yield self._compile_online(view)
        for service in self.project.select(Service):
            yield from self._compile_service(service)
        yield from (compile_step(step, self.io) for step in list_prompt_service_steps(self.project, self._bind_body))
        for monitor in self.project.select(Monitor):
            yield from self._compile_monitor(monitor)
        yield from (compile_step(step, self.io) for step in self._list_score_steps())
        yield from (compile_step(step, self.io) for step in self._list_prompt_steps())

    def _list_score_steps(self) -> list[StepSpec]:
        if not (scores := self.project.select(MLTestScore)):
            return []
        from mlops_assets.orchestrate.score.score_step import build_score_step

        return [build_score_step(score, self.alerts, self._bind_body) for score in scores]

    def _list_prompt_steps(self) -> list[StepSpec]:
        classes = {base for declaration in self.project.declarations for base in type(declaration).__mro__}
        if not any(base.__module__.startswith(_LLM_VALUES) for base in classes):
            return []  # a project without prompts does not import what evaluates them
        from mlops_assets.orchestrate.compiler.prompts import list_prompt_steps

        return list(list_prompt_steps(self.project, self.platform, self._bind_body))

    def compile_upkeep(self, upkeep: Upkeep) -> dg.AssetsDefinition:
        """Return the asset that maintains the lake."""
        return compile_step(upkeep_step(upkeep, self._bind_body(NODE, upkeep_body(self.project, upkeep))), self.io)

    def _compile_dataset(self, dataset: Dataset[..., Any]) -> dg.AssetsDefinition:
        node = self.project.node(dataset)
        config, resources = function_requirements(dataset.function)
        step = StepSpec(
            dataset.key,
            self._bind_body(node, partial(publish_dataset, dataset=dataset)),
            group=DATA_GROUP,
            description=dataset.function.description,
            kinds=frozenset({"dataset", "duckdb"}),
            partitions=dataset.table.partitions,
            deps=list_deps(node),
            ins=self._list_plain_inputs(dataset.function),
            checks=build_table_check_specs(dataset.key, dataset.table),
            config=config,
            resources=resources,
            options=dataset.options,
            condition=follow_inputs(node, self.platform) if node.edges else None,
        )
        return compile_step(step, self.io)

    def _compile_pushed(self, source: PushSource) -> dg.AssetsDefinition:
        node = build_push_node(source, self.platform)
        step = StepSpec(
            source.key,
            self._bind_body(node, partial(publish_pushed_rows, source=source)),
            group=DATA_GROUP,
            description=source.function.description,
            kinds=frozenset({"dataset", "stream", "duckdb"}),
            partitions=source.table.partitions,
            checks=list_push_checks(source),
            options=source.options,
            condition=follow_inputs(node, self.platform),
        )
        return compile_step(step, self.io)

    def _compile_feature_view(self, view: FeatureView) -> dg.AssetsDefinition:
        node = self.project.node(view)
        names = ", ".join(view.feature_names)
        function = view.source.function if isinstance(view.source, Computed) else None
        config, resources = function_requirements(function) if function else ({}, frozenset())
        step = StepSpec(
            view.key,
            self._bind_body(node, partial(publish_feature_view, view=view)),
            group=DATA_GROUP,
            description=view.description or f"Features of {view.entity.name}: {names}.",
            kinds=frozenset({"features", "duckdb"}),
            partitions=view.partitions,
            deps=list_deps(node),
            ins=self._list_plain_inputs(function) if function else {},
            checks=build_table_check_specs(view.key, build_view_rules(view)),
            config=config,
            resources=resources,
            options=view.options,
            condition=follow_inputs(node, self.platform),
            code_version=view.version(build_view_source(view)),
            freshness=build_freshness_policy(view),
        )
        return compile_step(step, self.io)

    def _compile_training_set(self, training_set: TrainingSet[..., Any]) -> dg.AssetsDefinition:
        node = self.project.node(training_set)
        config, resources = function_requirements(training_set.function)
        step = StepSpec(
            training_set.key,
            self._bind_body(node, training_set_body(training_set)),
            group=self._find_training_set_group(training_set),
            description=training_set.function.description,
            kinds=frozenset({"training_set", "duckdb"}),
            deps=list_deps(node),
            ins=self._list_plain_inputs(training_set.function),
            checks=list_training_set_checks(training_set),
            config=config | AS_OF_CONFIG,
            resources=resources,
            options=training_set.options,
        )
        return compile_step(step, self.io)

    def _find_training_set_group(self, training_set: TrainingSet[..., Any]) -> str:
        """Return the name of the only model that uses a training set; the training set's own name if none or several do."""
        users = [model.name for model in self.project.select(Model) if model.training_set.key == training_set.key]
        return users[0] if len(users) == 1 else training_set.name

    def _compile_model(self, model: Model[..., Any]) -> Iterator[dg.AssetsDefinition]:
        functions = tuple(f for f in self.project.select(GateFunction) if f.model.key == model.key)
        gates = gather_gates(model, functions, find_retraining(self.project, model))
        definitions = hash_gates(gates)
        config, resources = function_requirements(model.function)
        node = Node(model.key, None, (Edge(model.training_set.key, None),))
        yield compile_step(
            StepSpec(
                model.key,
                self._bind_body(node, model_body(model, gates)),
                group=model.name,
                description=model.function.description,
                kinds=frozenset({"model", "scikitlearn"}),
                deps=list_deps(node),
                checks=list_model_checks(model, gates),
                config=config,
                resources=resources | {p.name for f in functions for p in f.function.parameters_for(Injection.RESOURCE)},
                options=model.options,
            ),
            self.io,
        )
        bodies = (version_body(model, definitions), champion_body(model, definitions))
        for step in list_release_steps(model, (model.key,), bodies, self._bind_body, _RELEASE_TEXTS):
            yield compile_step(step, self.io)

    def _compile_batch(self, batch: BatchPrediction) -> dg.AssetsDefinition:
        node = self.project.node(batch)
        step = StepSpec(
            batch.key,
            self._bind_body(node, prediction_body(batch)),
            group=batch.model.name,
            description=f"Predictions of the champion of {batch.model.name} for {batch.dataset.key}.",
            kinds=frozenset({"predictions", "scikitlearn"}),
            partitions=node.partitions,
            # A new champion does not trigger new predictions of the past; the dependency is for the graph.
            deps=[*list_deps(node), dg.AssetDep(asset_key(f"champion/{batch.model.name}"))],
            checks=list_prediction_checks(batch),
            options=batch.options,
            condition=follow_inputs(node, self.platform, model=batch.model.name, ignored_assets=[f"champion/{batch.model.name}"]),
        )
        return compile_step(step, self.io)

    def _compile_online(self, view: FeatureView) -> dg.AssetsDefinition:
        node = online_node(view)
        step = StepSpec(
            node.key,
            self._bind_body(node, partial(publish_online, view=view)),
            group=self._find_online_group(view),
            description=f"The rows of {view.key} that services look up.",
            kinds=frozenset({"features", "online"}),
            deps=list_deps(node),
            checks=list_online_checks(view),
            config=ONLINE_CONFIG,
            condition=follow_inputs(node, self.platform),
        )
        return compile_step(step, self.io)

    def _find_online_group(self, view: FeatureView) -> str:
        """Return the name of the only model whose services look up a view; the data group if none or several do."""
        users = {
            s.model.name
            for s in self.project.select(Service)
            if view.key in {v.key for v in select_stored_views(s.model.training_set.features)}
        }
        return users.pop() if len(users) == 1 else DATA_GROUP

    def _compile_service(self, service: Service) -> Iterator[dg.AssetsDefinition]:
        looked_up = [view for view in select_stored_views(service.model.training_set.features) if view.online]
        node = Node(
            service.key, None, (Edge(f"champion/{service.model.name}", None), *(Edge(online_key(view), None) for view in looked_up))
        )
        service_step = StepSpec(
            service.key,
            self._bind_body(node, service_body(service)),
            group=service.model.name,
            description=f"The champion of {service.model.name} behind HTTP.",
            kinds=frozenset({"service", "python"}),
            deps=list_deps(node),
            options=service.options,
            condition=follow_gates(ignored_assets=[online_key(view) for view in looked_up]),
        )
        yield compile_step(service_step, self.io)
        node = served_node(self.project, service, self.platform)
        predictions_step = StepSpec(
            node.key,
            self._bind_body(node, partial(publish_served, service=service)),
            group=service.model.name,
            description=f"Predictions of {service.key}, from its log.",
            kinds=frozenset({"predictions", "duckdb"}),
            partitions=node.partitions,
            # The dependency is for the graph; the predictions follow the log.
            deps=[dg.AssetDep(asset_key(service.key))],
            checks=list_served_checks(self.project, service),
            condition=follow_inputs(node, self.platform, ignored_assets=[service.key]),
        )
        yield compile_step(predictions_step, self.io)

    def _compile_monitor(self, monitor: Monitor) -> Iterator[dg.AssetsDefinition]:
        if monitor.drift:
            text = f"Drift of {monitor.predictions_key} from the training data of each version."
            yield self._compile_report(monitor, drift_node(self.project, monitor), drift_body(monitor), list_drift_checks(monitor), text)
        if monitor.estimates:
            text = f"Performance of {monitor.predictions_key}, estimated without labels."
            yield self._compile_report(
                monitor, build_estimate_node(self.project, monitor), build_estimate_body(monitor), list_estimate_checks(monitor), text
            )
        if monitor.label_expectations:
            text = f"Performance of {monitor.predictions_key} on the labels that have arrived."
            node, labels = performance_node(self.project, monitor), monitor.model.training_set.function
            yield self._compile_report(monitor, node, performance_body(monitor), list_performance_checks(monitor), text, labels)

        if monitor.objectives:
            text = f"Latency, throughput, failed requests and missing features of {monitor.of.key}."
            node = system_node(monitor, self.platform)
            yield self._compile_report(monitor, node, system_body(monitor), list_system_checks(monitor), text)

    def _compile_report(  # noqa: PLR0913  (the differences between reports)
        self,
        monitor: Monitor,
        node: Node,
        body: StepFunction,
        checks: Sequence[dg.AssetCheckSpec],
        text: str,
        labels: UserFunction[..., Any] | None = None,
    ) -> dg.AssetsDefinition:
        """Return the asset of a monitor's report; its step calls the function ``labels`` to get the rows with labels."""
        config, resources = function_requirements(labels) if labels else ({}, frozenset[str]())
        step = StepSpec(
            node.key,
            self._bind_body(node, body),
            group=monitor.model.name,
            description=text,
            kinds=frozenset({"report", "duckdb"}),
            partitions=monitor.partitions,
            deps=list_deps(node),
            ins=self._list_plain_inputs(labels) if labels else {},
            checks=checks,
            config=config,
            resources=resources,
            options=monitor.options,
            condition=follow_inputs(node, self.platform),
        )
        return compile_step(step, self.io)

    def _bind_body(self, node: Node, body: StepFunction) -> Callable[..., Iterator[object]]:
        """Return the function that Dagster calls: it checks external inputs, calls ``body`` with a step context and ends its leases."""
        project, platform = self.project, self.platform
        parents = {edge.parent for edge in node.edges}
        externals = [e for e in project.select(ExternalDataset) if e.key in parents]

        def run(context: dg.AssetExecutionContext, **loaded: object) -> Iterator[object]:
            for external in externals:
                require_valid(external, platform, node.key)
            with ExitStack() as leases:
                yield from body(StepContext(context, project, open_stores(platform), node, loaded, leases=leases))

        return run

    def _list_plain_inputs(self, function: UserFunction[..., Any]) -> Mapping[str, dg.AssetIn]:
        """Return parameter name → input, for the plain assets that a function asks for: Dagster loads them itself."""
        refs = {p.name: self.project.tables[p.name] for p in function.tables}
        return {name: dg.AssetIn(dg.AssetKey(ref.key.split("/"))) for name, ref in refs.items() if ref.plain is not None}
