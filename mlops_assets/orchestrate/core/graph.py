"""Tables and their inputs: the graph that automation follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.orchestrate.core.partitions import map_partitions

if TYPE_CHECKING:
    import dagster as dg

    from mlops_assets.stores.lake.protocol import Lake


@dataclass(frozen=True)
class Edge:
    """The dependency of a child table on one parent table.

    Parameters
    ----------
    parent
        The lake table, ``<kind>/<name>``.
    partitions
        The parent's partitions.
    mapping
        Maps a child partition to the parent partitions that it needs. None maps to the same key, or to the same time window.
    required
        Whether a child partition needs a parent partition. When False, a child partition to which none is mapped is made without this
        parent.
    optional
        Whether the child is made even while the parent has no records.
    growing
        Whether the child is made with the first recorded parent partition, and again with each one that follows.
    """

    parent: str
    partitions: dg.PartitionsDefinition | None
    mapping: dg.PartitionMapping | None = None
    required: bool = False
    optional: bool = False
    growing: bool = False


ExternalInputs = Callable[[Sequence[str]], Mapping[str, str]]  # partitions → partition → hash of its data outside the lake


@dataclass(frozen=True)
class Node:
    """A table of the lake and its edges.

    Parameters
    ----------
    key
        The table, ``<kind>/<name>``.
    partitions
        Its partitions; None when unpartitioned.
    edges
        Its dependencies on parent tables.
    external_inputs
        For a table that is made from data outside the lake as well: a function that returns partition → hash of this data. Partitions
        without such data are left out.
    definition
        A hash of how a derived table is made; when it changes, every partition is rebuilt.
    """

    key: str
    partitions: dg.PartitionsDefinition | None
    edges: tuple[Edge, ...] = ()
    external_inputs: ExternalInputs | None = None
    definition: str = ""

    @property
    def is_derived(self) -> bool:
        """Whether the table is made from inputs that automation can follow: parent tables, or data outside the lake with a hash."""
        return bool(self.edges) or self.external_inputs is not None


def compute_fingerprints(node: Node, keys: Sequence[str], lake: Lake, *, snapshot: int | None = None) -> dict[str, str]:
    """Return the fingerprint of each partition: a hash of its inputs, as the lake records them, and of the table's definition.

    Parameters
    ----------
    node
        The table.
    keys
        The partitions of the table to hash.
    lake
        The lake, which records the content hashes of parents.
    snapshot
        The snapshot of the lake to look at; the newest when None.

    Returns
    -------
    dict
        Partition → fingerprint. A partition whose newest input does not exist yet is left out.
        In a table without inputs, each fingerprint is ``""``.
    """
    if not node.is_derived:
        return dict.fromkeys(keys, "")
    facts: list[Mapping[str, object]] = [_list_parent_hashes(node, edge, keys, lake, snapshot) for edge in node.edges]
    names = [edge.parent for edge in node.edges]
    if node.external_inputs is not None:
        facts.append(node.external_inputs(keys))
        names.append("outside")
    ready = [key for key in keys if all(key in fact for fact in facts)]
    definition = [("definition", node.definition)] if node.definition else []
    return {key: _hash_facts([*definition, *((name, fact[key]) for name, fact in zip(names, facts, strict=True))]) for key in ready}


def _list_parent_hashes(node: Node, edge: Edge, keys: Sequence[str], lake: Lake, snapshot: int | None) -> dict[str, list[tuple[str, str]]]:
    """Return child partition → (recorded parent partition, content hash) pairs; a child whose newest parent is missing is left out."""
    recorded = {key: record.content_hash for key, record in lake.records(edge.parent, snapshot=snapshot).items()}
    takes_all = edge.partitions is not None and node.partitions is None
    result: dict[str, list[tuple[str, str]]] = {}
    if not recorded:
        return {key: [] for key in keys} if edge.optional else result
    for key, parents in map_partitions(edge, node.partitions, keys).items():
        # A window that reaches past the newest data is not ready; one that lies before the first partition is made from nothing.
        complete = any(parent in recorded for parent in parents) if edge.growing else bool(parents) and parents[-1] in recorded
        if takes_all or complete or not (parents or edge.required):
            result[key] = [(parent, recorded[parent]) for parent in parents if parent in recorded]
    return result


def _hash_facts(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()
