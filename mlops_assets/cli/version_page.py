"""What ``mlops models show`` shows of one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.cli.registry import find
from mlops_assets.compute.features.signature import describe_values
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.errors import ArtifactError, RegistryError, nearest
from mlops_assets.orchestrate.training.refit import find_refit
from mlops_assets.orchestrate.versions.card import ensure_card
from mlops_assets.serving.formats.integrity import list_parts, mark_damage
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.serving.formats.packaging import describe_format, find_other_libraries, read_manifest
from mlops_assets.stores.registry.version_files import open_version_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.registry.records import Evidence, Version


def facts(project: LoadedProject, asked: str) -> dict[str, Any]:
    """Return all that is recorded of a version, as JSON-like values.

    Parameters
    ----------
    project
        Which declares the model.
    asked
        ``model@version``, or ``model`` for the newest.

    Raises
    ------
    RegistryError
        There is no such model or version.
    """
    name, _, number = asked.partition("@")
    find(project, name)
    at = project.stores
    mark_damage(at.registry, at.artifacts, _version(project, name, number))
    version = _version(project, name, number)
    run = at.tracker.get(version.run_id)
    return {
        f"{name}@{version.version}": _headline(project, version),
        "evidence": [_evidence(e) for e in at.registry.evidence(name, version.digest)],
        "approvals": [
            {
                "at": _when(a.at),
                "environment": a.environment,
                "approved": a.approved,
                "approver (self-declared)": a.approver,
                "reason": a.reason,
            }
            for a in at.registry.approvals(name, version.version)
        ],
        "marks": [{"at": _when(m.at), "mark": m.mark, "reason": m.reason} for m in at.registry.marks(name, version.version)],
        "files": _files(project, version),
        **_refit(project, version),
        "training": {"run": run.id, "lake snapshot": version.snapshot, "started": _when(run.started_at), **_flat("parameter", run.params)},
        "metrics": {k: round(v, 6) for k, v in run.metrics.items()},
        "signature": _signature(project, version),
        "libraries": _libraries(project, version),
    }


def card(project: LoadedProject, asked: str) -> dict[str, str]:
    """Return the forms of a version's model card.

    Parameters
    ----------
    project, asked
        As in :func:`facts`.

    Raises
    ------
    RegistryError
        There is no such model or version.
    ArtifactError
        The version is damaged.
    """
    name, _, number = asked.partition("@")
    declared, model = find(project, name)
    return ensure_card(declared, project.stores, model, _version(project, name, number))


def _version(project: LoadedProject, name: str, number: str) -> Version:
    found = {str(v.version): v for v in project.stores.registry.versions(name)}
    wanted = number or max(found, key=int, default="")
    if wanted not in found:
        raise RegistryError(
            f"model '{name}' has no version {wanted or 'at all'}", hint=nearest(wanted, found) + f"it has {', '.join(found) or 'none'}"
        )
    return found[wanted]


def _headline(project: LoadedProject, version: Version) -> dict[str, Any]:
    return {
        "state": version.state,
        **({"damage": version.damage} if version.damage else {}),
        "aliases": ", ".join(version.aliases) or "none",
        "environment": project.platform.environment,
        "approval": version.approval or "nobody has decided",
        "created": _when(version.created_at),
        "candidate": version.digest,
        "artifact": version.artifact,
        "format": describe_format(_manifest(project, version)),
    }


def _evidence(found: Evidence) -> dict[str, Any]:
    known = found.low is not None and found.high is not None
    return {
        "gate": found.gate,
        "passed": found.passed,
        "value": found.value,
        "threshold": found.threshold,
        "interval": f"{found.low:+.5g} … {found.high:+.5g}" if known else "",
        "compared with": (found.champion[:12] or "no champion") if found.relative else "",
        "reason": found.reason,
    }


def _files(project: LoadedProject, version: Version) -> list[dict[str, Any]]:
    artifacts = project.stores.artifacts
    if version.damage:
        return [{"file": "manifest", "sha256": version.artifact, "problem": version.damage}]
    files = open_version_files(project.platform.registry).list_files(version.model, version.version)
    every = [("manifest", version.artifact), *list_parts(dict(read_manifest(artifacts, version.artifact))), *sorted(files.items())]
    return [{"file": name, "sha256": sha256, **_size(artifacts, sha256)} for name, sha256 in every]


def _refit(project: LoadedProject, version: Version) -> dict[str, Any]:
    """Return both fits of a version that was fitted again after its gates; nothing of one that serves its judged fit."""
    judged = read_judged_fit(project.stores.artifacts, version.artifact, version.digest)
    if not judged.refitted:
        return {}
    run = find_refit(project.stores, version.run_id, version.artifact)
    fitted = FittedRows.from_manifest(_manifest(project, version))
    rows = {} if fitted is None else {"fitted on": ", ".join(fitted.parts), "rows": fitted.rows, "last row": _when(fitted.last)}
    return {
        "refit after the gates, which serves": {"run": run.id if run else "unknown", "artifact": version.artifact, **rows},
        "judged fit, whose metrics and evidence these are": {"run": version.run_id, "artifact": judged.artifact, "digest": judged.digest},
    }


def _size(artifacts: Artifacts, sha256: str) -> dict[str, Any]:
    try:
        return {"bytes": len(artifacts.get(sha256))}
    except ArtifactError as error:  # of a card: what a version predicts with is looked after before
        return {"problem": error.message}


def _libraries(project: LoadedProject, version: Version) -> list[dict[str, Any]]:
    """Return the libraries of the training; where another version is installed, both."""
    manifest = _manifest(project, version)
    others = {other.name: other for other in find_other_libraries(manifest)}
    told = {None: "the same", False: "differs", True: "differs, and may predict otherwise"}
    return [
        {
            "library": name,
            "trained with": then,
            "installed": others[name].installed or "no" if name in others else then,
            "": told[others[name].serious if name in others else None],
        }
        for name, then in manifest.get("libraries", {}).items()
    ]


def _manifest(project: LoadedProject, version: Version) -> Mapping[str, Any]:
    try:
        return read_manifest(project.stores.artifacts, version.artifact)
    except ArtifactError:
        return {}


def _signature(project: LoadedProject, version: Version) -> list[dict[str, Any]]:
    """Return what the model takes, one line for each column of X."""
    return [
        {
            "column of X": row["column"],
            "type": row["dtype"],
            "null": f"{row['nulls']:.1%}" if row["nulls"] else "never seen",
            "held in training": describe_values(row),
        }
        for row in _manifest(project, version).get("signature", [])
    ]


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix} {name}": value for name, value in values.items()}


def _when(time: Any) -> str:  # noqa: ANN401  (a time, or nothing yet)
    return time.isoformat(timespec="seconds") if time else ""
