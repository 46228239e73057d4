"""The process in which a version is trained again: it reads the record, the lake and the artifacts, and writes one file."""

import io
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlops_assets.compute.training.environment import installed
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.seeds import seeded
from mlops_assets.compute.training.split import in_canonical_order, parts_of, whole_of
from mlops_assets.compute.user_code.outside_reads import differing
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.compute.user_code.source_slice import load_source
from mlops_assets.compute.user_code.user_errors import shorten
from mlops_assets.errors import DataError, MlopsError
from mlops_assets.orchestrate.training.recorded_function import called
from mlops_assets.orchestrate.training.run_facts import data_facts, result_facts
from mlops_assets.serving.formats.formats import as_served
from mlops_assets.serving.formats.likeliest import labels_of
from mlops_assets.serving.formats.packaging import predictions_of
from mlops_assets.stores.lake.damage import read_verified
from mlops_assets.stores.lake.protocol import Part
from mlops_assets.stores.platform.run_log import start_run
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.evaluation import Split
from mlops_assets.values.platform import Platform


def trained_again(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a training that follows a record.

    Parameters
    ----------
    request
        ``platform``, ``snapshot`` (the newest when null), ``source``, ``params``, ``probe``, ``refit_probe`` (null without a second fit), ``form``,
        ``positive`` and the recorded ``facts``.
    """
    stores, recorded = Stores(Platform(**request["platform"])), request["facts"]
    reads, lake = recorded["reads"], stores.lake
    snapshot = lake.snapshot() if request["snapshot"] is None else request["snapshot"]
    read = read_verified(lake, reads["table"], [Part("")], window=None, event_timestamp=None, snapshot=snapshot)
    if missing := [name for name in (*reads["X"], reads["label"]) if name not in read.columns]:
        raise DataError(f"'{reads['table']}' has no column '{missing[0]}' any more", hint="reproduce from the recorded data")
    rows = in_canonical_order(read, reads["event_timestamp"])
    splits = parts_of(rows, reads["X"], reads["label"])
    with tempfile.TemporaryDirectory() as folder:
        function = load_source(request["source"], Path(folder))
        hashed = source_hash(function)
        # What the function logs goes to a tracker that is thrown away: the record has its own run.
        with start_run("reproduction", platform=Platform.at(Path(folder) / "home")), seeded(recorded["fingerprint"]):
            estimator = called(function, splits, request["params"])
        refit = _refit(stores, function, whole_of(rows, reads["X"], reads["label"]), request)
    served = as_served(estimator, request["form"], splits["train"].X)
    return {
        "data": {reads["table"]: lake.records(reads["table"], snapshot=snapshot)[""].content_hash},
        **data_facts(rows, splits),
        "code": {"source": hashed},
        "params": request["params"],
        **result_facts(estimator, request["source"]),
        "other_packages": dict(installed()),
        **_answers(estimator, stores, request["probe"]),
        **refit,
        "metrics": dict(evaluate(served, splits["holdout"], reads["metrics"], positive=request["positive"]).metrics),
    }


def _refit(stores: Stores, function: Any, whole: Split, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Fit again on every row, as after the gates, and return what that predicts; nothing for a version without a second fit."""
    if request["refit_probe"] is None:
        return {}
    with (
        tempfile.TemporaryDirectory() as folder,
        start_run("reproduction", platform=Platform.at(Path(folder))),
        seeded(request["facts"]["fingerprint"]),
    ):
        estimator = called(function, {"train": whole}, request["params"])
    return {"refit": _answers(estimator, stores, request["refit_probe"])}


def _answers(estimator: Any, stores: Stores, probe: str) -> dict[str, Any]:  # noqa: ANN401  (any estimator)
    rows = pl.read_ipc(io.BytesIO(stores.artifacts.get(probe)))
    return {"predictions": np.asarray(predictions_of(estimator, rows)).tolist(), "labels": labels_of(estimator, rows).tolist()}


def _other_package(request: Mapping[str, Any]) -> str:
    """Name the first package that is not the recorded one: it is the first thing to suspect."""
    have = {"python": platform.python_version(), **installed()}
    recorded = request["facts"]["packages"].items()
    return next((f"; {name} was {was}, is {have.get(name, 'absent')}" for name, was in recorded if have.get(name) != was), "")


def failure_hint(error: Exception, request: Mapping[str, Any]) -> str:
    """Return what a person can do about code that trained before and fails now.

    Parameters
    ----------
    error
        What the recorded code raised.
    request
        As of :func:`trained_again`.
    """
    outside: Mapping[str, str] = request.get("outside", {})
    if isinstance(error, OSError) and error.filename is not None:
        known = next((digest for name, digest in outside.items() if name.startswith("file:") and name.endswith(str(error.filename))), "")
        recorded = f"; its sha256 was {known}" if known else "; what was in it is not recorded, because it is read before a function runs"
        return f"the code reads the file '{error.filename}' of the folder {Path.cwd()}: put it there as it was when the version was trained{recorded}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, KeyError) and last.filename in ("<frozen os>", os.__file__):
        return f"set the environment variable '{error.args[0]}' as it was when the version was trained"
    if isinstance(error, ImportError) and error.name:
        return f"install what has the module '{error.name}', or train in the recorded versions: --env locked"
    if changed := differing(outside):
        return f"{'; '.join(changed)} since the version was trained: restore that"
    if _other_package(request):
        return "a library has changed: try --env locked"
    return "the code, the data and the libraries are those of the record: look at what else the code uses on this machine"


def main() -> None:
    """Train again as the file of the first argument says, and write what came of it to that of the second."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        result: dict[str, Any] = trained_again(request)
    except MlopsError as error:
        result = {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
    except Exception as error:  # noqa: BLE001  (whatever the recorded code raises)
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"training again failed with {type(error).__name__}: {shorten(str(error))} ({Path(where.filename).name}, line {where.lineno}){_other_package(request)}"
        result = {"error": {"kind": "DataError", "message": told, "hint": failure_hint(error, request)}}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
