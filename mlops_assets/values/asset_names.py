"""Keys of nodes in Dagster's asset graph, made from declared keys ``<kind>/<name>``.

Dagster labels a node with the last component of its key, so that this component must say what the node is.
"""

_SUFFIXES = {
    "approval": "approval",
    "calibration": "calibration",
    "champion": "champion",
    "drift_report": "drift",
    "estimate_report": "estimate",
    "evaluation": "evaluation",
    "features": "features",
    "labels": "labels",
    "model": "candidate",
    "online": "online",
    "performance_report": "performance",
    "predictions": "predictions",
    "prompt": "prompt",
    "quality": "limits",
    "quality_report": "quality",
    "quarantine": "quarantine",
    "score": "score",
    "system_report": "system",
    "traces": "traces",
    "upkeep": "upkeep",
    "version": "version",
}
_KEEP_SUFFIXED_NAMES = {"features", "predictions", "prompt", "traces"}


def build_graph_key(key: str) -> str:
    """Return the key of the node in the asset graph that stands for ``<kind>/<name>``.

    Datasets, training sets and services keep their names. Every other node gets a suffix, because several nodes may share a name: a model
    has a candidate, a version and a champion; a feature view often has the name of its dataset, predictions and traces have that of their
    service. A feature view, predictions, a prompt or traces whose name already ends with the suffix keep their name.

    Parameters
    ----------
    key : str
        ``<kind>/<name>``, the declared key. A table has this key in the lake too.

    Returns
    -------
    str
        ``<kind>/<label>``.

    Examples
    --------
    >>> build_graph_key("model/lateness"), build_graph_key("features/weather"), build_graph_key("dataset/flights")
    ('model/lateness_candidate', 'features/weather_features', 'dataset/flights')
    """
    kind, _, name = key.partition("/")
    suffix = _SUFFIXES.get(kind, "")
    has_suffix = kind in _KEEP_SUFFIXED_NAMES and name.endswith(suffix)
    return key if has_suffix or not suffix else f"{key}_{suffix}"


def find_declared_name(node_key: str) -> str:
    """Return the declared name of a node of the asset graph, which :func:`build_graph_key` gave a suffix.

    Parameters
    ----------
    node_key : str
        ``<kind>/<label>``. The kinds ``features``, ``predictions``, ``prompt`` and ``traces`` are not supported: their label may be the
        name itself.

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
    """Return the asset selection of some nodes, for ``mlops run --select``.

    Parameters
    ----------
    *keys : str
        The declared keys, each ``<kind>/<name>``.

    Returns
    -------
    str
        A selection in Dagster's syntax.

    Examples
    --------
    >>> select_nodes("model/lateness", "dataset/flights")
    'key:"model/lateness_candidate" or key:"dataset/flights"'
    """
    return " or ".join(f'key:"{build_graph_key(key)}"' for key in keys)
