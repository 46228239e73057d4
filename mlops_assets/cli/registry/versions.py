"""What ``mlops models`` prints: the versions of a model, its history, and the records of one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.cli.registry.aliases import find_model
from mlops_assets.compute.features.signature import describe_values
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.errors import ArtifactError, RegistryError, suggest_name
from mlops_assets.orchestrate.training.refit import find_refit
from mlops_assets.orchestrate.versions.card import ensure_card
from mlops_assets.serving.formats.integrity import list_parts, mark_damage
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.serving.formats.packaging import describe_format, find_changed_libraries, read_manifest
from mlops_assets.stores.registry.history import model_history
from mlops_assets.stores.registry.version_files import open_version_files
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.registry.records import Evidence, Version
    from mlops_assets.stores.tracker.tracker import Run


def describe_version(project: LoadedProject, version_name: str) -> dict[str, Any]:
    """Return the records of a version as JSON-like values; its files are verified first, and damage is recorded.

    Parameters
    ----------
    project
        The project that declares the model.
    version_name
        ``model@version``, or ``model`` for the newest.

    Raises
    ------
    RegistryError
        There is no such model or version.
    """
    name, _, number = version_name.partition("@")
    find_model(project, name)
    stores = project.stores
    mark_damage(stores.registry, stores.artifacts, find_version(project, name, number))
    version = find_version(project, name, number)
    run = stores.tracker.get(version.run_id)
    return {
        f"{name}@{version.version}": _summarise(project, version),
        "evidence": [describe_evidence(e) for e in stores.registry.evidence(name, version.digest)],
        "approvals": [
            {
                "at": _format_time(a.at),
                "environment": a.environment,
                "approved": a.approved,
                "approver (self-declared)": a.approver,
                "reason": a.reason,
            }
            for a in stores.registry.approvals(name, version.version)
        ],
        "marks": [{"at": _format_time(m.at), "mark": m.mark, "reason": m.reason} for m in stores.registry.marks(name, version.version)],
        "files": _list_files(project, version),
        **_describe_refit(project, version),
        "training": {
            "run": run.id,
            "lake snapshot": version.snapshot,
            "started": _format_time(run.started_at),
            **_prefix_names("parameter", run.params),
        },
        "metrics": {k: round(v, 6) for k, v in run.metrics.items()},
        "signature": _describe_signature(project, version),
        "libraries": _list_libraries(project, version),
    }


def read_card(project: LoadedProject, version_name: str) -> dict[str, str]:
    """Return form → text of a version's model card: Markdown and HTML; a missing card is built.

    Parameters
    ----------
    project, version_name
        As in :func:`describe_version`.

    Raises
    ------
    RegistryError
        There is no such model or version.
    ArtifactError
        The version is damaged.
    """
    name, _, number = version_name.partition("@")
    declared, model = find_model(project, name)
    return ensure_card(declared, project.stores, model, find_version(project, name, number))


def find_version(project: LoadedProject, name: str, number: str, noun: str = "model") -> Version:
    """Return a version of a model or a prompt; the newest without a number.

    Parameters
    ----------
    project, name
        The project, and the name of the model or prompt.
    number
        The number as text; empty for the newest version.
    noun
        ``model`` or ``prompt``, for the error.

    Raises
    ------
    RegistryError
        There is no such version.
    """
    by_number = {str(v.version): v for v in project.stores.registry.versions(name)}
    chosen = number or max(by_number, key=int, default="")
    if chosen not in by_number:
        raise RegistryError(
            f"{noun} '{name}' has no version {chosen}" if by_number else f"{noun} '{name}' has no registered version",
            hint=suggest_name(chosen, by_number) + f"it has {', '.join(by_number)}"
            if by_number
            else f"register one with `mlops run`; `mlops {noun}s list` shows all versions",
        )
    return by_number[chosen]


def _summarise(project: LoadedProject, version: Version) -> dict[str, Any]:
    return {
        "state": version.state,
        **({"damage": version.damage} if version.damage else {}),
        "aliases": ", ".join(version.aliases) or "none",
        "environment": project.platform.environment,
        "approval": version.approval or "pending",
        "created": _format_time(version.created_at),
        "candidate": version.digest,
        "artifact": version.artifact,
        "format": describe_format(_read_manifest(project, version)),
    }


def describe_evidence(evidence: Evidence) -> dict[str, Any]:
    """Return the result of a gate as a row."""
    known = evidence.low is not None and evidence.high is not None
    return {
        "gate": evidence.gate,
        "passed": evidence.passed,
        "value": evidence.value,
        "threshold": evidence.threshold,
        "interval": f"{evidence.low:+.5g} … {evidence.high:+.5g}" if known else "",
        "compared with": (evidence.champion[:12] or "no champion") if evidence.relative else "",
        "reason": evidence.reason,
    }


def _list_files(project: LoadedProject, version: Version) -> list[dict[str, Any]]:
    artifacts = project.stores.artifacts
    if version.damage:
        return [{"file": "manifest", "sha256": version.artifact, "problem": version.damage}]
    files = open_version_files(project.platform.registry).list_files(version.model, version.version)
    parts = [("manifest", version.artifact), *list_parts(dict(read_manifest(artifacts, version.artifact))), *sorted(files.items())]
    return [{"file": name, "sha256": sha256, **_measure_size(artifacts, sha256)} for name, sha256 in parts]


def _describe_refit(project: LoadedProject, version: Version) -> dict[str, Any]:
    """Return the serving fit and the fit that the gates judged, for a version refitted after its gates; empty for other versions."""
    judged = read_judged_fit(project.stores.artifacts, version.artifact, version.digest)
    if not judged.refitted:
        return {}
    run = find_refit(project.stores, version.run_id, version.artifact)
    fitted = FittedRows.from_manifest(_read_manifest(project, version))
    rows = {} if fitted is None else {"fitted on": ", ".join(fitted.parts), "rows": fitted.rows, "last row": _format_time(fitted.last)}
    return {
        "serving fit (refit after the gates)": {"run": run.id if run else "unknown", "artifact": version.artifact, **rows},
        "judged fit (source of metrics and gate results)": {"run": version.run_id, "artifact": judged.artifact, "digest": judged.digest},
    }


def _measure_size(artifacts: Artifacts, sha256: str) -> dict[str, Any]:
    try:
        return {"bytes": len(artifacts.get(sha256))}
    except ArtifactError as error:  # of a card: the files that predict are examined before
        return {"problem": error.message}


def _list_libraries(project: LoadedProject, version: Version) -> list[dict[str, Any]]:
    """Return one row for each library of the training, with its version in training and its installed version."""
    manifest = _read_manifest(project, version)
    changes = {change.name: change for change in find_changed_libraries(manifest)}
    words = {None: "same", False: "differs", True: "differs; predictions may differ"}
    return [
        {
            "library": name,
            "trained with": trained_version,
            "installed": changes[name].installed or "no" if name in changes else trained_version,
            "comparison": words[changes[name].serious if name in changes else None],
        }
        for name, trained_version in manifest.get("libraries", {}).items()
    ]


def _read_manifest(project: LoadedProject, version: Version) -> Mapping[str, Any]:
    """Return the manifest of a version; empty when it is missing or damaged."""
    try:
        return read_manifest(project.stores.artifacts, version.artifact)
    except ArtifactError:
        return {}


def _describe_signature(project: LoadedProject, version: Version) -> list[dict[str, Any]]:
    """Return one row for each column of ``X``: type, nulls and values in training."""
    return [
        {
            "column": row["column"],
            "type": row["dtype"],
            "nulls": f"{row['nulls']:.1%}" if row["nulls"] else "none",
            "values in training": describe_values(row),
        }
        for row in _read_manifest(project, version).get("signature", [])
    ]


def _prefix_names(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix} {name}": value for name, value in values.items()}


def _format_time(time: Any) -> str:  # noqa: ANN401  (a time, or nothing yet)
    return time.isoformat(timespec="seconds") if time else ""


def list_versions(project: LoadedProject, model: str | None, *, kind: type[Any] = Model) -> list[dict[str, Any]]:
    """Return the versions of one model or prompt, or of all of them, newest first.

    The files of versions with an alias or recorded damage are verified, and changes of their damage are recorded.

    Parameters
    ----------
    project
        The project.
    model
        The name; None for all models, including those that the project no longer declares, or for all declared prompts.
    kind
        ``Model`` or ``Prompt``.

    Raises
    ------
    RegistryError
        There is no such model or prompt.
    """
    noun, (known, other) = kind.__name__.lower(), (_list_names(project, each) for each in (kind, Model if kind is Prompt else Prompt))
    if model is not None and model not in known:
        raise RegistryError(
            f"there is no {noun} '{model}'", hint=suggest_name(model, known) + f"there are {', '.join(sorted(known)) or 'none'}"
        )
    stores = project.stores
    for aliased in (v for v in stores.registry.versions(model) if v.aliases or v.damage):
        mark_damage(stores.registry, stores.artifacts, aliased)  # a service that answers from memory does not notice damaged files
    versions = [v for v in stores.registry.versions(model) if v.model in known or (kind is Model and v.model not in other)]
    runs = {run_id: project.stores.tracker.get(run_id) for run_id in {v.run_id for v in versions}}
    return [
        {
            noun: v.model,
            "version": v.version,
            "state": f"{v.state}: {v.damage}" if v.damage else v.state,
            "aliases": ", ".join(v.aliases),
            **{name: round(value, 5) for name, value in _holdout_metrics(runs[v.run_id])},
            "created": v.created_at.isoformat(timespec="seconds"),
            "candidate": v.digest[:12],
        }
        for v in reversed(versions)
    ]


def _list_names(project: LoadedProject, kind: type[Any]) -> set[str]:
    return {declared.name for part in project.parts for declared in part.project.select(kind)}


def _holdout_metrics(run: Run) -> list[tuple[str, float]]:
    """Return the names and values of the holdout metrics, which gates judge."""
    names = run.record.get("judged_by", run.metrics)
    return [(name, value) for name, value in run.metrics.items() if name in names]


def list_history(project: LoadedProject, model: str, *, kind: type[Any] = Model) -> list[dict[str, Any]]:
    """Return the events of a model or prompt, newest first: refused candidates, versions, decisions, damage, moves of aliases.

    As in :func:`list_versions`, files are verified and an unknown name raises RegistryError.
    """
    list_versions(project, model, kind=kind)
    return [
        {"at": e.at.isoformat(timespec="seconds"), "environment": e.environment, "kind": e.kind, "version": e.version or "none", "alias": e.alias, "before": (e.previous or "none") if e.alias else "",
         "actor": e.actor, "reason": e.reason, "gates": ", ".join(f"{g['gate']}: {g['reason']}" for g in e.evidence), "candidate": e.candidate[:12]}
        for e in reversed(model_history(project.stores.platform.registry, model))
    ]  # fmt: skip


def format_event(row: Mapping[str, Any]) -> dict[str, str]:
    """Return an event of :func:`list_history` as a row for people, with column names as keys."""
    kind = {"damaged": "damage", "restored": "restoration"}.get(row["kind"], row["kind"])
    subject = f"candidate {row['candidate']}" if row["version"] == "none" else f"version {row['version']}"
    event = f"{kind} of {subject}"
    if kind == "rollback":
        event = f"rollback from version {row['before']} to {subject}"
    elif row["before"]:
        event += " (previously none)" if row["before"] == "none" else f" (previously version {row['before']})"
    reasons = [row["reason"], *([row["gates"]] if row["version"] != "none" else [])]
    shown = row["at"].removesuffix("+00:00").replace("T", " ")
    return {
        "time (UTC)": shown,
        "environment": row["environment"],
        "event": event,
        "actor": row["actor"],
        "reason": "\n".join(filter(None, reasons)),
    }
