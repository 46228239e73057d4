"""Find who reads a feature view or predictions: declarations, other Dagster assets, and programs that were recorded while they read."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.console.site import ConsoleSite, format_time
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.readers import list_readers
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.features import FeatureView, select_stored_views
from mlops_assets.values.model import Model
from mlops_assets.values.serving import Service
from mlops_assets.values.training import TrainingSet

_MAX_VERSIONS = 20  # of each model, the newest; manifests are read for them
_OWN_KINDS = ("online/", "quarantine/", "quality/")  # companions of the table, which are no consumers


@dataclass(frozen=True)
class Consumer:
    """A reader of a table.

    Parameters
    ----------
    name, kind
        E.g. ``lateness@3`` and ``version``.
    declared
        Whether a declaration of this package says that it reads the table.
    evidence
        How the reader is known, e.g. from the asset graph.
    """

    name: str
    kind: str
    declared: bool
    evidence: str


def find_consumers(site: ConsoleSite, key: str, view: FeatureView | None = None) -> list[Consumer]:
    """Return the known readers of a table, declared ones first.

    Parameters
    ----------
    site
        The project and its platform.
    key
        The declared key of the table.
    view
        The feature view of the table; None for predictions.
    """
    declared = [] if view is None else list(_find_declared(site, view))
    names = {consumer.name for consumer in declared}
    assets = [consumer for consumer in _find_assets(site, key) if consumer.name not in names]
    return sorted([*declared, *assets, *_find_recorded(site, key)], key=lambda consumer: not consumer.declared)


def _find_declared(site: ConsoleSite, view: FeatureView) -> Iterator[Consumer]:
    """Yield the training sets, models, services and newest versions that look a view up."""
    sets = [t for _, t in site.select(TrainingSet) if view.key in {each.key for each in select_stored_views(t.features)}]
    models = [model for _, model in site.select(Model) if model.training_set in sets]
    yield from (Consumer(each.key, "training set", declared=True, evidence="features= of the training set") for each in sets)
    yield from (Consumer(model.name, "model", declared=True, evidence=f"its training set {model.training_set.name}") for model in models)
    for _, service in site.select(Service):
        if service.model in models:
            yield Consumer(service.name, "service", declared=True, evidence=f"its model {service.model.name}")
    for model in models:
        versions = site.stores.registry.versions(model.name)
        for version in versions:
            if (version.aliases or version in versions[-_MAX_VERSIONS:]) and view.name in _list_views(site, version.artifact):
                yield Consumer(f"{model.name}@{version.version}", "version", declared=True, evidence="the manifest of the version")


def _list_views(site: ConsoleSite, artifact: str) -> frozenset[str]:
    """Return the feature views that a version looks up; none for a damaged version."""
    if artifact not in site.cache:
        try:
            steps = read_manifest(site.stores.artifacts, artifact).get("steps", ())
        except ArtifactError:
            return frozenset()
        site.cache[artifact] = frozenset(step["view"] for step in steps if "view" in step)
    found: frozenset[str] = site.cache[artifact]
    return found


def _find_assets(site: ConsoleSite, key: str) -> Iterator[Consumer]:
    """Yield the assets downstream of a table or of its online copy."""
    kind, _, name = key.partition("/")
    nodes = [build_graph_key(key), *([build_graph_key(f"online/{name}")] if kind == "features" else [])]
    readers = dict.fromkeys(reader for node in nodes for reader in site.readers.get(node, ()))
    for reader in readers:
        if reader in site.plain_nodes or reader not in site.readers:
            yield Consumer(reader, "Dagster asset", declared=False, evidence="deps= of the asset")
        elif not reader.startswith(_OWN_KINDS):
            yield Consumer(reader, reader.partition("/")[0].replace("_", " "), declared=True, evidence="the asset graph")


def _find_recorded(site: ConsoleSite, key: str) -> Iterator[Consumer]:
    """Yield the programs that have read a table through ml.read_table, ml.training_frame or ml.lookup."""
    for reader in list_readers(site.platform.home, key):
        since = f"ml.{reader.call}, {format_time(reader.first)} to {format_time(reader.last)} UTC"
        yield Consumer(f"{reader.program} of {reader.user} on {reader.host}", "program", declared=False, evidence=since)
