"""``mlops init``: a small project that runs, and CI workflows for its repository."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NOT_A_NAME = re.compile(r"[^a-z0-9_]+")


def write_project(name: str) -> list[Path]:
    """Write a project into the folder ``name``.

    Parameters
    ----------
    name
        A folder, created if it is missing, or ``.`` for the current folder.

    Returns
    -------
    list of Path
        The written files.

    Raises
    ------
    DefinitionError
        A file of the project exists already; nothing is written.
    """
    folder = Path(name)
    module = _NOT_A_NAME.sub("_", folder.absolute().name.lower()).strip("_") or "project"
    files = {path: text.replace("PROJECT_NAME", module) for path, text in _read_templates().items()}
    files["data.csv"] = _sample_csv()
    if existing := [path for path in files if (folder / path).exists()]:
        raise DefinitionError(f"'{folder / existing[0]}' exists already", hint="choose another name; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in files]


def write_ci(folder: Path, kind: str, models: Sequence[str]) -> list[Path]:
    """Write CI workflows: pull-request report, release, rollback, weekly reproduction; return the written files.

    Parameters
    ----------
    folder
        The root of the repository.
    kind
        ``github`` or ``gitlab``.
    models
        Names of the project's models.

    Raises
    ------
    DefinitionError
        A workflow file exists already; nothing is written.
    """
    files = {folder / path: _repeat_for_models(text, models) for path, text in _read_workflows(kind)}
    if existing := [path for path in files if path.exists()]:
        raise DefinitionError(f"'{existing[0]}' exists already", hint="move it away first; nothing was written")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def _read_workflows(kind: str) -> Iterator[tuple[Path, str]]:
    for entry in sorted((resources.files("mlops_assets.cli") / "ci_template" / kind).iterdir(), key=lambda e: e.name):
        name = entry.name.removesuffix(".txt")
        path = Path(".github") / "workflows" / name if kind == "github" else Path(f".{name}")
        yield path, entry.read_text(encoding="utf-8")


def _repeat_for_models(text: str, models: Sequence[str]) -> str:
    """Replace each line with the placeholder ``MODEL_NAME`` by one line for each model."""
    lines = (line for line in text.splitlines(keepends=True))
    return "".join("".join(line.replace("MODEL_NAME", name) for name in models) if "MODEL_NAME" in line else line for line in lines)


def _read_templates() -> dict[str, str]:
    folder = resources.files("mlops_assets.cli") / "template"
    return {entry.name.removesuffix(".txt"): entry.read_text(encoding="utf-8") for entry in sorted(folder.iterdir(), key=lambda e: e.name)}


def _sample_csv() -> str:
    """Return scikit-learn's breast cancer data (Wolberg, Street, Mangasarian 1995) as CSV: a patient number, ten features, the label."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names[:10]]
    lines = [",".join(["patient", *names, "is_benign"])]
    lines += [
        ",".join(map(str, [i, *(float(v) for v in row[:10]), int(y)]))
        for i, (row, y) in enumerate(zip(data.data, data.target, strict=True))
    ]
    return "\n".join(lines) + "\n"
