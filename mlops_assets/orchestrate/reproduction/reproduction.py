"""Train a registered version again from its record, in a separate process, and compare the new results with the recorded ones."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlops_assets import errors
from mlops_assets.compute.training.comparison import TOLERANCE, TrainingComparison, compare_trainings
from mlops_assets.compute.training.environment import parse_lock
from mlops_assets.compute.user_code.outside_reads import describe_changes
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.compute.user_code.source_slice import extract_source
from mlops_assets.errors import InstallationError, MlopsError, RegistryError
from mlops_assets.orchestrate.reproduction.locked_environment import prepare_locked_python
from mlops_assets.orchestrate.training.kinds import read_kind
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.erasures import open_erasure_log
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.registry.reproductions import FAILED, Reproduction, open_reproductions
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.asset_names import select_nodes

CURRENT, LOCKED, RECORDED = "current", "locked", "recorded"
_PROCESS = "mlops_assets.orchestrate.reproduction.process"


@dataclass(frozen=True)
class ReproductionOptions:
    """The options of a reproduction.

    Parameters
    ----------
    env
        ``current``: with the installed libraries; ``locked``: with the recorded library versions.
    data, code
        ``recorded``; or ``current`` for the current rows of the training set, or the current code of the project.
    params
        Hyperparameters that replace the recorded values of the same names; None for none.
    """

    env: str = CURRENT
    data: str = RECORDED
    code: str = RECORDED
    params: Mapping[str, Any] | None = None

    @property
    def plain(self) -> bool:
        """Whether data, code and parameters are the recorded ones; only the verdict of such a reproduction is stored."""
        return (self.data, self.code, self.params) == (RECORDED, RECORDED, None)


def reproduce(
    stores: Stores, version: Version, function: Callable[..., Any] | None, options: ReproductionOptions | None = None
) -> Reproduction:
    """Train a version again and compare the result with the record; candidates, aliases and the champion do not change.

    The result is stored only if data, code and parameters are the recorded ones. An error of this package is then stored as the verdict
    ``FAILED``.

    Parameters
    ----------
    stores
        The stores of the platform.
    version
        The registered version.
    function
        The model's function in the current project; None when the project has no such model any more.
    options
        The options of the reproduction; all default when None.

    Raises
    ------
    RegistryError
        The record is incomplete, the code to run is unavailable, the lake no longer has the snapshot, or rows were erased.
    ArtifactError, LakeError
        A stored file of the version, or the training set, is missing or damaged.
    DataError
        The code raised an error.
    InstallationError
        The recorded library versions cannot be installed, or the process died.
    """
    options = options or ReproductionOptions()
    try:
        reproduction = _train_and_compare(stores, version, function, options)
    except MlopsError as error:
        if options.plain:
            open_reproductions(stores.platform.registry).add(describe_failure(version, options, error))
        raise
    if options.plain:
        open_reproductions(stores.platform.registry).add(reproduction)
    return reproduction


def describe_failure(version: Version, options: ReproductionOptions, error: MlopsError) -> Reproduction:
    """Return the verdict ``FAILED`` of a version that an error of this package prevented from being trained again.

    Every such error counts, even one caused by this machine: until the next reproduction, it is unknown whether the version can be
    reproduced.

    Parameters
    ----------
    version, options
        As for :func:`reproduce`.
    error
        The error that :func:`reproduce` raised.
    """
    facts = {"code": "", "error": type(error).__name__, "hint": error.hint}
    return Reproduction(version.model, version.version, version.digest, options.env, FAILED, "error", None, error.message, facts)


def _train_and_compare(stores: Stores, version: Version, function: Callable[..., Any] | None, options: ReproductionOptions) -> Reproduction:
    """Train a version again in a separate process, and return the comparison with its record."""
    run = stores.tracker.get(version.run_id)
    facts = _require_facts(run, version)
    if options.data == RECORDED:
        _refuse_unreadable(stores, version)
    source, origin = _choose_source(stores, version, facts, function, options)
    fit, started = read_judged_fit(stores.artifacts, version.artifact, version.digest), time.monotonic()
    kind = type(read_kind(run.record))
    locked = parse_lock(stores.artifacts.get(facts["environment"]).decode())
    request: dict[str, Any] = {
        "platform": asdict(stores.platform),
        "snapshot": version.snapshot if options.data == RECORDED else None,
        "source": source,
        "params": dict(facts["params"]) if options.params is None else {**facts["params"], **options.params},
        "kind": f"{kind.__module__}:{kind.__qualname__}",
        "artifact": fit.artifact,
        "refit_artifact": version.artifact if fit.refitted else None,
        "facts": facts,
        "outside": dict(run.record.get("outside", {})),
    }
    python = prepare_locked_python(locked, stores.platform.home) if options.env == LOCKED else Path(sys.executable)
    result = _run_process(python, request, facts if options.env == LOCKED else {})
    metrics = {name: run.metrics[name] for name in facts["reads"]["metrics"]}  # the function may have logged others
    was, now = {**facts, "other_packages": locked, "metrics": metrics, **result["was"]}, result["now"]
    return _build_reproduction(
        version,
        options,
        compare_trainings(was, now),
        {"code": origin, "changed besides the data": describe_changes(request["outside"]), "seconds": round(time.monotonic() - started, 1)},
    )


def _require_facts(run: Run, version: Version) -> Mapping[str, Any]:
    if "facts" not in run.record:
        raise RegistryError(
            f"{version.model}@{version.version} was trained before records were complete enough to train it again",
            hint=f"train and register it again: mlops run --select '{select_nodes(f'model/{version.model}', f'version/{version.model}')}'",
        )
    facts: Mapping[str, Any] = run.record["facts"]
    return facts


def _refuse_unreadable(stores: Stores, version: Version) -> None:
    """Raise RegistryError for a version whose rows were erased, or whose snapshot the lake no longer has."""
    name = f"{version.model}@{version.version}"
    for erasure in open_erasure_log(stores.platform.registry).list():
        if name in erasure.facts.get("versions", ()):
            raise RegistryError(
                f"{name} cannot be reproduced: rows that it was trained on were erased on {erasure.at:%Y-%m-%d} ({erasure.reason})",
                hint="compare with the current rows of the training set: --data current",
            )
    if not stores.lake.has_snapshot(version.snapshot):
        raise RegistryError(
            f"{name} cannot be reproduced: the lake's snapshot {version.snapshot}, which it was trained on, is gone",
            hint="restore the lake from a backup, or compare with the current rows of the training set: --data current",
        )


def _choose_source(
    stores: Stores, version: Version, facts: Mapping[str, Any], function: Callable[..., Any] | None, options: ReproductionOptions
) -> tuple[Mapping[str, Any], str]:
    """Return the source code to run, current or stored, and a description of its origin."""
    if options.code == CURRENT:
        if function is None:
            raise RegistryError(
                f"--code current needs model '{version.model}', which the project no longer declares",
                hint="omit --code, or pass --code recorded",
            )
        return extract_source(function), "the project's current code"
    if not facts["source"]:
        raise RegistryError(
            f"the code of {version.model}@{version.version} was not stored: {facts['source_problem']}",
            hint="correct that and train it again, or run the project's current code: --code current",
        )
    stored: Mapping[str, Any] = json.loads(stores.artifacts.get(facts["source"]))
    same = function is not None and source_hash(function) == facts["code"]["source"]
    return stored, "as stored; the project's code is the same" if same else "as stored; the project's code has changed since"


def _run_process(python: Path, request: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Run the request in a process with the thread settings of ``facts``; return its result, or raise its error."""
    threads = {name: value for name, value in facts.get("threads", {}).items() if name.endswith(("_THREADS", "_CPU_COUNT"))}
    root = str(Path(errors.__file__).parents[1])
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))}
    with tempfile.TemporaryDirectory() as folder:
        request_file, result_file = Path(folder) / "request.json", Path(folder) / "answer.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        command = [str(python), "-P", "-m", _PROCESS, str(request_file), str(result_file)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if not result_file.exists():
            last = process.stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise InstallationError(
                f"the process that trains the version again died: {last[0]}", hint="check the free memory and the installed libraries"
            )
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
    if "error" in result:
        kind: type[errors.MlopsError] = getattr(errors, result["error"]["kind"])
        raise kind(result["error"]["message"], hint=result["error"]["hint"])
    return result


def _build_reproduction(
    version: Version, options: ReproductionOptions, comparison: TrainingComparison, facts: Mapping[str, Any]
) -> Reproduction:
    first = comparison.first
    differences = [asdict(difference) for difference in comparison.differences]
    details = {**facts, "differences": differences, "largest difference of a prediction": comparison.largest, "tolerance": TOLERANCE}
    field, was, now = (first.field, first.was, first.now) if first else ("", None, None)
    return Reproduction(version.model, version.version, version.digest, options.env, comparison.verdict, field, was, now, details)
