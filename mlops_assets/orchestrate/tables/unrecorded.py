"""Warn of code and files that a result depends on but no record covers."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlops_assets.compute.user_code.source_code import find_unrecorded
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.values.feature_sources import Computed
from mlops_assets.values.features import FeatureView

UNRECORDED = "not recorded"
_SEPARATOR = "; "


def build_unrecorded_metadata(texts: Iterable[str]) -> dict[str, str]:
    """Return unrecorded dependencies of a result as metadata; empty when there are none."""
    text = _SEPARATOR.join(texts)
    return {UNRECORDED: text} if text else {}


def merge_unrecorded(chunks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Merge the unrecorded dependencies in the metadata of chunks, without duplicates; empty when there are none."""
    texts = (text for chunk in chunks if UNRECORDED in chunk for text in chunk[UNRECORDED].split(_SEPARATOR))
    return build_unrecorded_metadata(dict.fromkeys(texts))


def warn_of_unrecorded(step: StepContext, view: FeatureView) -> dict[str, str]:
    """Log a warning of each code or file that a computed view uses and its version does not cover; return these as metadata."""
    if not isinstance(view.source, Computed):
        return {}
    names, reads = find_unrecorded(view.source.function.function), step.outside_reads.describe_reads()
    for name in names:
        step.context.log.warning(f"'{view.key}' uses {name}, which its version does not cover: rebuild every partition when that changes")
    for name in reads:
        step.context.log.warning(
            f"'{view.key}' reads {name} while it runs, which its version does not cover: read it at the top level of the module instead"
        )
    texts = [f"{name}: rebuild every partition of the view when it changes" for name in names]
    return build_unrecorded_metadata([*texts, *(f"{name}: read it at the top level of the module instead" for name in reads)])
