"""Compile a step to a Dagster asset: one op with its checks and its IO manager."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.beta import allow_beta
from mlops_assets.orchestrate.core.io_manager import IO_MANAGER_KEY
from mlops_assets.orchestrate.core.liveness import tag_run
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.function import Injection, UserFunction
from mlops_assets.values.options import AssetOptions

StepBody = Callable[..., Iterator[object]]


@dataclass(frozen=True)
class StepSpec:
    """The specification of one asset, before it is compiled to Dagster.

    Parameters
    ----------
    key
        ``<kind>/<name>``.
    body
        Generator function that receives the context, and plain inputs by name, and yields Dagster results.
    description, kinds, partitions, code_version
        As in :class:`dagster.AssetSpec`.
    deps, checks
        The upstream assets in the lake, and the specs of the checks whose results the body yields.
    ins
        Plain upstream assets that Dagster loads, by parameter name; each is also a dependency.
    config, resources
        The fields of the run configuration by name, and the keys of the resources that the body uses.
    options
        The Dagster options that the user has declared.
    group, condition, freshness
        The group, automation condition and freshness policy that apply where ``options`` has none.
    """

    key: str
    body: StepBody
    group: str
    description: str = ""
    kinds: frozenset[str] = frozenset()
    partitions: dg.PartitionsDefinition | None = None
    deps: Sequence[dg.AssetDep] = ()
    ins: Mapping[str, dg.AssetIn] = field(default_factory=dict)
    checks: Sequence[dg.AssetCheckSpec] = ()
    config: Mapping[str, dg.Field] = field(default_factory=dict)
    resources: frozenset[str] = frozenset()
    options: AssetOptions = field(default=AssetOptions())
    condition: dg.AutomationCondition[Any] | None = None
    code_version: str | None = None
    freshness: dg.FreshnessPolicy | None = None


def asset_key(key: str) -> dg.AssetKey:
    """Return the Dagster asset key of ``<kind>/<name>``; its path is the :func:`build_graph_key`, which may differ."""
    return dg.AssetKey(build_graph_key(key).split("/"))


def op_name(key: str) -> str:
    """Return the op name of ``<kind>/<name>``: the components of its asset key, joined by ``__``."""
    return build_graph_key(key).replace("/", "__")


def function_requirements(function: UserFunction[..., Any]) -> tuple[dict[str, dg.Field], frozenset[str]]:
    """Return the configuration fields by name, and the resource keys, that a user's function asks for."""
    config: dict[str, dg.Field] = {}
    for parameter in function.parameters_for(Injection.CONFIG):
        config |= parameter.annotation.to_fields_dict()  # type: ignore[attr-defined]  # a dagster.Config
    return config, frozenset(p.name for p in function.parameters_for(Injection.RESOURCE))


def compile_step(step: StepSpec, io: dg.IOManagerDefinition) -> dg.AssetsDefinition:
    """Compile one step to a Dagster asset, whose runs are tagged with their process."""
    options = step.options
    spec = dg.AssetSpec(
        asset_key(step.key),
        deps=[*step.deps, *(dg.AssetDep(i.key or (), partition_mapping=i.partition_mapping) for i in step.ins.values())],
        description=step.description or None,
        group_name=options.group or step.group,
        kinds=set(step.kinds),
        owners=list(options.owners),
        tags=dict(options.tags),
        automation_condition=options.automation_condition or step.condition,
        partitions_def=step.partitions,
        code_version=step.code_version,
        freshness_policy=options.freshness_policy or step.freshness,
    ).with_io_manager_key(IO_MANAGER_KEY)
    with allow_beta():  # each asset brings its IO manager, so that these definitions merge into any project
        decorate = dg.multi_asset(
            specs=[spec],
            name=op_name(step.key),
            ins=dict(step.ins),
            check_specs=list(step.checks),
            config_schema=dict(step.config) or None,
            required_resource_keys=set(step.resources),
            resource_defs={IO_MANAGER_KEY: io},
            op_tags=dict(options.op_tags),
            retry_policy=options.retry_policy,
            pool=options.pool,
            backfill_policy=dg.BackfillPolicy.single_run() if step.partitions else None,
        )
    return decorate(_wrap_body(step.body))


def _wrap_body(body: StepBody) -> Callable[..., Iterator[object]]:
    def run(context: dg.AssetExecutionContext, **loaded: object) -> Iterator[object]:
        tag_run(context.instance, context.run.run_id)
        yield from body(context, **loaded)

    return run
