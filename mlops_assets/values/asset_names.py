"""Keys of nodes in the asset graph: Dagster labels a node with the last component of its key, so that component says what the node is."""

from collections.abc import Iterable

_SUFFIXES = {
    "approval": "approval",
    "champion": "champion",
    "drift_report": "drift",
    "features": "features",
    "model": "candidate",
    "online": "online",
    "performance_report": "performance",
    "predictions": "predictions",
    "quality": "limits",
    "quarantine": "quarantine",
    "upkeep": "upkeep",
    "version": "version",
}
_SERVICES: set[str] = set()


def remember_services(names: Iterable[str]) -> None:
    """Remember which tables of predictions are those of services; a batch prediction has its name for itself.

    Parameters
    ----------
    names : Iterable[str]
        Names of the services of a project.

    Returns
    -------
    None
        Nothing.

    Examples
    --------
    >>> remember_services(["lateness_api"])
    """
    _SERVICES.update(names)


def graph_key(key: str) -> str:
    """Return the key of the node in the asset graph that stands for ``<kind>/<name>``.

    Datasets, training sets, batch predictions and services keep their names. Every other node adds what it is, because it often shares its name:
    a model has a candidate, a version and a champion, a feature view the name of its dataset, and predictions that of their service.

    Parameters
    ----------
    key : str
        ``<kind>/<name>``; for a table also its name in the lake.

    Returns
    -------
    str
        ``<kind>/<label>``.

    Examples
    --------
    >>> graph_key("model/lateness"), graph_key("features/weather"), graph_key("dataset/flights")
    ('model/lateness_candidate', 'features/weather_features', 'dataset/flights')
    """
    kind, _, name = key.partition("/")
    suffix = _SUFFIXES.get(kind, "")
    keeps_name = name not in _SERVICES if kind == "predictions" else kind == "features" and name.endswith(suffix)
    return key if keeps_name or not suffix else f"{key}_{suffix}"


def find_declared_name(node_key: str) -> str:
    """Return the name of the noun that a node of the asset graph belongs to.

    Parameters
    ----------
    node_key : str
        ``<kind>/<label>``, but no features or predictions: their label may be the name itself.

    Returns
    -------
    str
        The declared name.

    Examples
    --------
    >>> find_declared_name("champion/lateness_champion")
    'lateness'
    """
    kind, _, label = node_key.partition("/")
    return label.removesuffix(f"_{_SUFFIXES[kind]}") if kind in _SUFFIXES else label


def select_nodes(*keys: str) -> str:
    """Return the selection that names these nodes, for ``mlops run --select``.

    Parameters
    ----------
    *keys : str
        Each ``<kind>/<name>``.

    Returns
    -------
    str
        A selection in Dagster's syntax.

    Examples
    --------
    >>> select_nodes("model/lateness", "dataset/flights")
    'key:"model/lateness_candidate" or key:"dataset/flights"'
    """
    return " or ".join(f'key:"{graph_key(key)}"' for key in keys)
