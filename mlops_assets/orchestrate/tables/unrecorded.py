"""Warnings of what a result depends on and no record holds."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlops_assets.compute.user_code.source_code import find_unrecorded
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.values.feature_sources import Computed
from mlops_assets.values.features import FeatureView

UNRECORDED = "not recorded"
_SEPARATOR = "; "


def unrecorded_metadata(texts: Iterable[str]) -> dict[str, str]:
    """Return as metadata what a result depends on and no record holds; empty when there is nothing."""
    text = _SEPARATOR.join(texts)
    return {UNRECORDED: text} if text else {}


def merge_unrecorded(parts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the metadata of all chunks of a run from those of each, every text once."""
    texts = (text for part in parts if UNRECORDED in part for text in part[UNRECORDED].split(_SEPARATOR))
    return unrecorded_metadata(dict.fromkeys(texts))


def warn_of_unrecorded(step: StepContext, view: FeatureView) -> dict[str, str]:
    """Warn of everything that the rows of a view depend on and its version does not; return it as metadata."""
    if not isinstance(view.source, Computed):
        return {}
    used, read = find_unrecorded(view.source.function.function), step.outside_reads.names()
    for name in used:
        step.context.log.warning(f"'{view.key}' uses {name}, which its version does not cover: make its history again when that changes")
    for name in read:
        step.context.log.warning(
            f"'{view.key}' reads {name} while it runs, which its version does not cover: read it at the top level of the module instead"
        )
    texts = [f"{name}: make the history of the view again when it changes" for name in used]
    return unrecorded_metadata([*texts, *(f"{name}: read it at the top level of the module instead" for name in read)])
