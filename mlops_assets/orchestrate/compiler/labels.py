"""Check the labels of the asset graph: Dagster shows only the last component of an asset key, so this label must be unique."""

from collections.abc import Iterable, Iterator

import dagster as dg

from mlops_assets.errors import DefinitionError


def refuse_shared_labels(
    compiled: Iterable[dg.AssetsDefinition | dg.AssetSpec], plain: Iterable[dg.AssetsDefinition | dg.AssetSpec]
) -> None:
    """Refuse a project in which a declared asset has the label of another asset; plain assets may share a label with each other.

    Parameters
    ----------
    compiled
        The assets of the project's declarations.
    plain
        Plain Dagster assets.

    Raises
    ------
    DefinitionError
        Two assets share a label; the message names both.
    """
    labels: dict[str, str] = {}
    for key in _list_asset_keys(compiled):
        _add_label(labels, key)
    for key in _list_asset_keys(plain):
        _add_label(dict(labels), key)  # into a copy: plain assets may share a label


def _list_asset_keys(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> Iterator[dg.AssetKey]:
    for asset in assets:
        yield from [asset.key] if isinstance(asset, dg.AssetSpec) else asset.keys


def _add_label(labels: dict[str, str], key: dg.AssetKey) -> None:
    name, label = key.to_user_string(), key.path[-1]
    if labels.setdefault(label, name) != name:
        raise DefinitionError(
            f"'{labels[label]}' and '{name}' would both have the label '{label}' in the asset graph",
            hint="give one of them another name",
        )
