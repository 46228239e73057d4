"""Check the names of declared columns: each must be valid in a table, a log and a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.features import FeatureView, select_feature_views
from mlops_assets.values.names import check_columns
from mlops_assets.values.training import GroupSplit, TrainingSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.orchestrate.core.project import Project


def check_declared_columns(project: Project) -> None:
    """Check the names of all declared columns.

    Raises
    ------
    DefinitionError
        A name is invalid in a table, a log or a request; the message names the first such column, and the item that declares it.
    """
    for owner, names in _list_declared_columns(project):
        check_columns([name for name in names if name is not None], f"'{owner}'")


def _list_declared_columns(project: Project) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    for declaration in project.declarations:
        if isinstance(declaration, (Dataset, ExternalDataset)):
            table = declaration.table
            known_at = (name for columns in table.known_at for name in columns)
            yield declaration.key, (*table.schema_columns, *table.key, table.event_timestamp, table.created_timestamp, *known_at)
        elif isinstance(declaration, FeatureView):
            yield (
                declaration.key,
                (*declaration.entity.join_keys, declaration.event_timestamp, declaration.created_timestamp, *declaration.feature_names),
            )
        elif isinstance(declaration, TrainingSet):
            group = declaration.split.column if isinstance(declaration.split, GroupSplit) else None
            looked_up = (
                name for view in select_feature_views(declaration.features) for name in (*view.renamed_keys, *view.renamed_features)
            )
            yield (
                declaration.key,
                (*declaration.columns, declaration.label, declaration.event_timestamp, declaration.label_known_at, group, *looked_up),
            )
