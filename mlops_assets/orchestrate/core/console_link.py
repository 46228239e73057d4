"""Link assets in the Dagster UI to their pages in the console."""

import os
from typing import TypeVar
from urllib.parse import quote

import dagster as dg

from mlops_assets.values.asset_names import build_graph_key, find_declared_name

CONSOLE_URL = "MLOPS_CONSOLE_URL"  # set by `mlops ui` for the code location that it starts
CONSOLE_LINK = "console"
_PAGES = {
    **dict.fromkeys(("model", "version", "champion", "approval", "prompt"), "models"),
    **dict.fromkeys(("features", "online"), "features"),
    **dict.fromkeys(("drift_report", "performance_report", "estimate_report", "system_report"), "monitors"),
    "predictions": "predictions",
    "service": "services",
}
A = TypeVar("A", dg.AssetsDefinition, dg.AssetSpec, dg.AssetsDefinition | dg.AssetSpec)


def link_to_console(asset: A, declared_keys: frozenset[str]) -> A:
    """Return an asset whose metadata link to its page in the console; the asset itself when `mlops ui` did not start this process.

    Parameters
    ----------
    asset
        An asset of the package.
    declared_keys
        The keys of the declarations, which give views and predictions their declared names.
    """
    url = os.environ.get(CONSOLE_URL, "")
    if not url.startswith(("http://", "https://")):
        return asset
    by_node = {build_graph_key(key): key for key in declared_keys}

    def link(spec: dg.AssetSpec) -> dg.AssetSpec:
        path = find_console_path(spec.key.to_user_string(), by_node)
        return spec.merge_attributes(metadata={CONSOLE_LINK: dg.MetadataValue.url(url + path)}) if path else spec

    if isinstance(asset, dg.AssetSpec):
        return link(asset)
    return asset.map_asset_specs(link)


def find_console_path(node: str, by_node: dict[str, str]) -> str:
    """Return the path of the console page about a node of the asset graph; empty when the node has no page.

    Parameters
    ----------
    node
        The key of the node.
    by_node
        Node → declared key.
    """
    kind = node.partition("/")[0]
    page = _PAGES.get(kind)
    name = by_node[node].partition("/")[2] if node in by_node else find_declared_name(node)
    return f"/{page}/{quote(name, safe='')}" if page else ""
