"""The process that trains a version again: it reads the record, the lake and the artifacts, and writes the result to a file."""

import importlib
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlops_assets.compute.training.environment import installed_distributions
from mlops_assets.compute.training.split import apply_choice, choose_refit_rows, sort_canonically, split_rows
from mlops_assets.compute.user_code.outside_reads import describe_changes
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.compute.user_code.source_slice import load_source
from mlops_assets.compute.user_code.user_errors import shorten
from mlops_assets.errors import DataError, MlopsError, find_public_class
from mlops_assets.orchestrate.training.candidate_kind import CandidateKind, Retraining
from mlops_assets.orchestrate.training.run_facts import data_facts
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.platform import Platform


def retrain(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train again from a record; return ``was``, the stored results, and ``now``, the new results, each as field → value.

    Parameters
    ----------
    request
        ``platform``, ``kind`` (``module:class``), ``snapshot`` (None for the newest), ``source``, ``params``, ``artifact``, ``refit_artifact``
        (None without a refit) and the recorded ``facts``.

    Raises
    ------
    DataError
        The training set no longer has a recorded column.
    """
    kind = _import_kind(request["kind"])  # before the recorded source, which may bring packages of the same names
    stores, recorded = Stores(Platform(**request["platform"])), request["facts"]
    reads, lake = recorded["reads"], stores.lake
    snapshot = lake.snapshot() if request["snapshot"] is None else request["snapshot"]
    stored_rows = read_verified(lake, reads["table"], [Partition("")], window=None, event_timestamp=None, snapshot=snapshot)
    if missing := [name for name in (*reads["X"], reads["label"]) if name not in stored_rows.columns]:
        raise DataError(f"'{reads['table']}' no longer has the column '{missing[0]}'", hint="omit --data, or pass --data recorded")
    ordered = sort_canonically(stored_rows, reads["event_timestamp"])
    rows = apply_choice(ordered, reads["event_timestamp"], reads)
    splits = split_rows(rows, reads["X"], reads["label"])
    with tempfile.TemporaryDirectory() as folder:
        function = load_source(request["source"], Path(folder))
        code = source_hash(function)
        fits = (request["artifact"], request["refit_artifact"])
        refit_rows = choose_refit_rows(ordered, reads["event_timestamp"], reads)
        retraining = Retraining(function, request["source"], request["params"], splits, refit_rows, recorded, *fits)
        was, now = kind.reproduce(stores, retraining)
    neutral = {
        "data": {reads["table"]: lake.records(reads["table"], snapshot=snapshot)[""].content_hash},
        **data_facts(rows, splits),
        "code": {"source": code},
        "params": request["params"],
        "other_packages": dict(installed_distributions()),
    }
    return {"was": was, "now": neutral | now}


def _import_kind(path: str) -> CandidateKind:
    """Import and return the kind of candidate that the parent process names as ``module:class``."""
    module, _, cls = path.partition(":")
    kind: CandidateKind = getattr(importlib.import_module(module), cls)()
    return kind


def _describe_version_difference(request: Mapping[str, Any]) -> str:
    """Return a clause on the first recorded package whose installed version differs; empty if none differs."""
    installed = {"python": platform.python_version(), **installed_distributions()}
    recorded = request["facts"]["packages"].items()
    return next((f"; {name} was {was}, is {installed.get(name, 'absent')}" for name, was in recorded if installed.get(name) != was), "")


def failure_hint(error: Exception, request: Mapping[str, Any]) -> str:
    """Return a hint for recorded code that raises an error when it runs again.

    Parameters
    ----------
    error
        The error that the recorded code raised.
    request
        As for :func:`retrain`, with the hashes of what the code reads as ``outside``.
    """
    outside: Mapping[str, str] = request.get("outside", {})
    if isinstance(error, OSError) and error.filename is not None:
        recorded_hash = next(
            (digest for name, digest in outside.items() if name.startswith("file:") and name.endswith(str(error.filename))), ""
        )
        recorded = (
            f"; its sha256 was {recorded_hash}"
            if recorded_hash
            else "; its content is not recorded, because it is read outside of a function call"
        )
        return f"the code reads the file '{error.filename}' of the folder {Path.cwd()}: put it there as it was when the version was trained{recorded}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, KeyError) and last.filename in ("<frozen os>", os.__file__):
        return f"set the environment variable '{error.args[0]}' as it was when the version was trained"
    if isinstance(error, ImportError) and error.name:
        return f"install the package with the module '{error.name}', or train with the recorded versions: --env locked"
    if changed := describe_changes(outside):
        return f"{'; '.join(changed)} since the version was trained: restore it"
    if _describe_version_difference(request):
        return "a library has changed: try --env locked"
    return "the code, the data and the libraries are those of the record: look at what else the code uses on this machine"


def main() -> None:
    """Train again from the request in the file of the first argument; write the result or an ``error`` to that of the second."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        result: dict[str, Any] = retrain(request)
    except MlopsError as error:
        result = {"error": {"kind": find_public_class(error).__name__, "message": error.message, "hint": error.hint}}
    except Exception as error:  # noqa: BLE001  (the recorded code may raise anything)
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"training again failed with {type(error).__name__}: {shorten(str(error))} ({Path(where.filename).name}, line {where.lineno}){_describe_version_difference(request)}"
        result = {"error": {"kind": "DataError", "message": text, "hint": failure_hint(error, request)}}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
