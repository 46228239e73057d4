"""The checks on a version's reproducibility, and the scheduled job that trains the champion again."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from mlops_assets.errors import MlopsError
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.reproduction.reproduction import ReproductionOptions, describe_failure, reproduce
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.registry.reproductions import Reproduction, open_reproductions
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.model import Model
from mlops_assets.values.platform import Platform

REPRODUCIBLE, SEEDED_AND_SORTED = "reproducible", "seeded_and_sorted"
_WEEKLY = "0 5 * * 0"


def build_reproduction_checks(model: Model[..., Any], platform: Platform) -> dg.AssetChecksDefinition:
    """Return two checks of a model's newest version, which only warn: its last reproduction, and determinism of its training."""
    specs = [
        dg.AssetCheckSpec(
            REPRODUCIBLE, asset=_version_key(model), description="The latest reproduction of this version gave the same predictions."
        ),
        dg.AssetCheckSpec(
            SEEDED_AND_SORTED, asset=_version_key(model), description="Random numbers are seeded and row order is deterministic."
        ),
    ]

    @dg.multi_asset_check(specs=specs, name=f"reproducibility_of_{model.name}")
    def checks() -> Iterator[dg.AssetCheckResult]:
        stores = open_stores(platform)
        newest = stores.registry.versions(model.name)[-1]
        reproduction = open_reproductions(platform.registry).find_latest(model.name, newest.digest)
        yield dg.AssetCheckResult(asset_key=_version_key(model), check_name=REPRODUCIBLE, **_build_check_fields(newest, reproduction))
        facts = stores.tracker.get(newest.run_id).record.get("facts", {})
        reasons = find_nondeterminism(facts)
        yield dg.AssetCheckResult(
            asset_key=_version_key(model),
            check_name=SEEDED_AND_SORTED,
            passed=not reasons,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(reasons) or "random numbers are seeded and row order is deterministic",
            metadata={"version": newest.version, "seeds": dg.MetadataValue.json(facts.get("seeds", {}))},
        )

    return checks


def find_nondeterminism(facts: dict[str, Any]) -> list[str]:
    """Return why a repeated training may give another result: unseeded random numbers, or rows without a unique order."""
    reasons = []
    unseeded = sorted(name for name, value in facts.get("seeds", {}).items() if value is None)
    if facts.get("drawn"):
        source = f"{unseeded[0]} is None" if unseeded else "the function itself, or a library"
        reasons.append(
            f"the training draws from the global generator of {' and '.join(facts['drawn'])} ({source}): "
            f"only this package seeds it, with {facts['seed']}; give random_state= a number"
        )
    return [*reasons, *([facts["unsorted"]] if facts.get("unsorted") else [])]


def _version_key(model: Model[..., Any]) -> dg.AssetKey:
    return asset_key(f"version/{model.name}")


def _build_check_fields(version: Version, reproduction: Reproduction | None) -> dict[str, Any]:
    """Return the fields of the check result. A version that was never reproduced passes, and the description says so."""
    if reproduction is None:
        text = f"version {version.version} has not been reproduced yet: mlops reproduce {version.model}@{version.version}"
        return {"passed": True, "severity": dg.AssetCheckSeverity.WARN, "description": text, "metadata": {"verdict": "not tried"}}
    facts = {
        "verdict": reproduction.verdict,
        "version": reproduction.version,
        "env": reproduction.mode,
        "at": reproduction.at.isoformat(),
        "field": reproduction.field or "none",
    }
    return {
        "passed": reproduction.is_reproducible,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": reproduction.text,
        "metadata": {**facts, "was": str(reproduction.was), "now": str(reproduction.now)},
    }


def report_reproduction(instance: dg.DagsterInstance, model: Model[..., Any], version: Version, reproduction: Reproduction) -> None:
    """Report a reproduction as the result of the version's check."""
    fields = _build_check_fields(version, reproduction)
    instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=_version_key(model), check_name=REPRODUCIBLE, **fields))


def reproduce_and_report(
    instance: dg.DagsterInstance, stores: Stores, model: Model[..., Any], version: Version, options: ReproductionOptions | None = None
) -> Reproduction:
    """Reproduce a version, and report the verdict as the result of its check; the command line and the scheduled job both call this.

    An error of this package fails the check and is raised. Nothing is reported unless data, code and parameters are the recorded ones.

    Parameters
    ----------
    instance
        The Dagster instance that receives the result of the check.
    stores, version, options
        As for :func:`~mlops_assets.orchestrate.reproduction.reproduction.reproduce`.
    model
        The model's declaration.

    Raises
    ------
    MlopsError
        The version cannot be trained again.
    """
    options = options or ReproductionOptions()
    try:
        reproduction = reproduce(stores, version, model.function.function, options)
    except MlopsError as error:
        if options.plain:
            report_reproduction(instance, model, version, describe_failure(version, options, error))
        raise
    if options.plain:
        report_reproduction(instance, model, version, reproduction)
    return reproduction


def build_reproduction_schedule(model: Model[..., Any], platform: Platform, *, running: bool) -> dg.ScheduleDefinition:
    """Return the weekly schedule of the job that trains the champion again; it is off by default in the environment ``dev``."""
    name = f"reproduce_{model.name}"

    @dg.op(name=f"{name}_champion", ins={}, out=dg.Out(dg.Nothing), description=f"Trains the champion of {model.name} again.")
    def champion(context: dg.OpExecutionContext) -> None:
        stores = open_stores(platform)
        version = stores.registry.champion(model.name)
        if version is None:
            context.log.info(f"{model.name} has no champion yet")
            return
        context.log.info(reproduce_and_report(context.instance, stores, model, version).text)

    @dg.job(
        name=name,
        description=f"Trains the champion of {model.name} again and compares; the verdict is a check of {build_graph_key(f'version/{model.name}')}.",
    )
    def job() -> None:
        champion()

    return dg.ScheduleDefinition(
        job=job,
        cron_schedule=_WEEKLY,
        execution_timezone=model.cron_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if running and platform.environment != "dev" else dg.DefaultScheduleStatus.STOPPED,
        description=f"Trains the champion of {model.name} again, once a week.",
    )
