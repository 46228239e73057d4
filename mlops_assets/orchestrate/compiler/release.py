"""The steps that release a candidate: approval by a person, registration as a version, promotion to champion."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.tables.automation import follow_gates
from mlops_assets.orchestrate.versions.approval import APPROVAL_CONFIG, approval_body, approval_key
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.model import Model

StepFunction = Callable[[StepContext], Iterator[object]]
BindBody = Callable[[Node, StepFunction], Callable[..., Iterator[object]]]


def list_release_steps(
    declared: Model[..., Any] | Prompt[..., Any],
    evidence: Sequence[str],
    bodies: tuple[StepFunction, StepFunction],
    bind: BindBody,
    texts: tuple[str, str],
) -> Iterator[StepSpec]:
    """Yield the approval step if approval is declared, then the version step and the champion step.

    Parameters
    ----------
    declared
        The model or prompt.
    evidence
        The keys of the steps that evaluate its gates.
    bodies
        The bodies of the version's and of the champion's step.
    bind
        A function that returns the function that Dagster calls for a node and a body.
    texts
        The descriptions of the version and of the champion.
    """
    name, registered = declared.name, f"version/{declared.name}"
    if declared.approval:
        node = Node(approval_key(declared), None, (Edge(registered, None),))
        yield StepSpec(
            node.key,
            bind(node, approval_body(declared)),
            group=name,
            description=f"A person approves or rejects a version of {name}: fill in the launchpad.",
            kinds=frozenset({"approval"}),
            deps=list_deps(node),
            config=APPROVAL_CONFIG,
        )
    # A new version that waits for approval does not trigger the champion, but the champion runs after the version of the same run.
    inputs, ignored = ((approval_key(declared), registered), [registered]) if declared.approval else ((registered,), [])
    steps: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (("version", evidence, ()), ("champion", inputs, ignored))
    for (kind, upstream, ignored_assets), body, text in zip(steps, bodies, texts, strict=True):
        node = Node(f"{kind}/{name}", None, tuple(Edge(key, None) for key in upstream))
        yield StepSpec(
            node.key,
            bind(node, body),
            group=name,
            description=text,
            kinds=frozenset({kind}),
            deps=list_deps(node),
            condition=follow_gates(ignored_assets=ignored_assets),
        )


def list_deps(node: Node) -> list[dg.AssetDep]:
    """Return the upstream assets of a node, with their partition mappings."""
    return [dg.AssetDep(asset_key(edge.parent), partition_mapping=edge.mapping) for edge in node.edges]
