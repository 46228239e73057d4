"""Arguments that pass through to Dagster unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from mlops_assets.values.names import to_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import dagster as dg


class AssetArguments(TypedDict, total=False):
    """The keyword arguments of declared assets that Dagster receives unchanged.

    ``automation_condition`` of the user replaces the default; the others are Dagster's own.
    """

    automation_condition: dg.AutomationCondition[Any] | None
    op_tags: Mapping[str, str] | None
    pool: str | None
    owners: Sequence[str]
    tags: Mapping[str, str] | None
    retry_policy: dg.RetryPolicy | None
    group: str | None
    freshness_policy: dg.FreshnessPolicy | None


@dataclass(frozen=True, slots=True)
class AssetOptions:
    """The :class:`AssetArguments` of one asset, as a frozen value."""

    automation_condition: dg.AutomationCondition[Any] | None = None
    op_tags: tuple[tuple[str, str], ...] = ()
    pool: str | None = None
    owners: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    retry_policy: dg.RetryPolicy | None = None
    group: str | None = None
    freshness_policy: dg.FreshnessPolicy | None = None

    @classmethod
    def from_arguments(cls, arguments: AssetArguments) -> AssetOptions:
        """Return the arguments as a frozen value, with mappings and lists as tuples."""
        values: dict[str, object] = dict(arguments)
        values["op_tags"] = to_pairs(arguments.get("op_tags"))
        values["tags"] = to_pairs(arguments.get("tags"))
        values["owners"] = tuple(arguments.get("owners", ()))
        return cls(**values)  # type: ignore[arg-type]  # the keys are the fields
