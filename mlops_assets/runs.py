"""Log metrics, parameters, files and figures to the active run, and search runs.

While a model function trains, its run is active. A notebook or script starts a run with ``ml.start_run``.

Examples
--------
>>> import tempfile
>>> import mlops_assets as ml
>>> platform = ml.Platform.at(tempfile.mkdtemp())
>>> with ml.start_run("lateness", platform=platform):
...     ml.runs.log_params({"depth": 3})
...     ml.runs.log_metric("roc_auc", 0.71)
>>> ml.runs.search("metrics.roc_auc > 0.7", platform=platform)["params.depth"].to_list()
[3]
"""

from mlops_assets.stores.platform.run_log import log_artifact, log_figure, log_metric, log_params, search

__all__ = ["log_artifact", "log_figure", "log_metric", "log_params", "search"]
