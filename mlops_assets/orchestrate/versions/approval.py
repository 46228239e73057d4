"""Approval by a person: a version becomes champion only after a person has approved this very version."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.records import ApprovalDecision
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.model import Model
from mlops_assets.values.platform import Platform

APPROVED = "approved"
APPROVAL_CONFIG = {
    "version": dg.Field(int, description="The number of the version."),
    "approver": dg.Field(str, description="Who approves; the name is self-declared."),
    "reason": dg.Field(str, description="The reason, for the log."),
    "approved": dg.Field(bool, is_required=False, default_value=True, description="False rejects the version."),
}


def approval_key(model: Model[..., Any] | Prompt[..., Any]) -> str:
    """Return the key of the approval asset of a model or a prompt, ``approval/<name>``."""
    return f"approval/{model.name}"


def approval_body(model: Model[..., Any] | Prompt[..., Any]) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step by which a person approves or rejects a version."""

    def body(step: StepContext) -> Iterator[object]:
        config = step.config
        approval = step.stores.registry.approve(
            model.name, config["version"], approved=config["approved"], approver=config["approver"], reason=config["reason"]
        )
        report_approval(step.context.instance, model, approval)
        yield dg.MaterializeResult(
            asset_key(approval_key(model)),
            metadata=approval_facts(approval),
            data_version=dg.DataVersion(f"{approval.digest}:{approval.approved}"),
        )

    return body


def approval_facts(approval: ApprovalDecision) -> dict[str, Any]:
    """Return a person's decision about a version as metadata of the approval asset."""
    return {
        "version": approval.version,
        "approved": approval.approved,
        "approver (self-declared)": approval.approver,
        "reason": approval.reason,
    }


def report_approval(instance: dg.DagsterInstance, model: Model[..., Any] | Prompt[..., Any], approval: ApprovalDecision) -> None:
    """Report an approval or rejection as the result of the version's check; the command line and the UI both call this."""
    text = f"version {approval.version} {'approved' if approval.approved else 'rejected'} by {approval.approver} (self-declared): {approval.reason}"
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=asset_key(f"version/{model.name}"),
            check_name=APPROVED,
            passed=approval.approved,
            severity=dg.AssetCheckSeverity.WARN,
            description=text,
            metadata={"version": approval.version, "approver": approval.approver},
        )
    )


def build_approval_check(model: Model[..., Any] | Prompt[..., Any], platform: Platform) -> dg.AssetChecksDefinition:
    """Return the check that passes if a person has approved the newest version; otherwise it only warns."""

    @dg.asset_check(asset=asset_key(f"version/{model.name}"), name=APPROVED, description="A person has approved the newest version.")
    def check_approval() -> dg.AssetCheckResult:
        newest = open_stores(platform).registry.versions(model.name)[-1]
        text = f"version {newest.version} is {newest.approval or 'not approved yet'}"
        return dg.AssetCheckResult(
            passed=newest.approval == APPROVED, severity=dg.AssetCheckSeverity.WARN, description=text, metadata={"version": newest.version}
        )

    return check_approval
