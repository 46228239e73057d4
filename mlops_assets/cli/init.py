"""``mlops init``: the smallest project that runs at once."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from mlops_assets.errors import DefinitionError

_NOT_A_NAME = re.compile(r"[^a-z0-9_]+")


def write_project(name: str) -> list[Path]:
    """Write a project into the folder ``name``.

    Parameters
    ----------
    name
        A new folder, or ``.`` for this one.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    DefinitionError
        A file is there already.
    """
    folder = Path(name)
    module = _NOT_A_NAME.sub("_", folder.absolute().name.lower()).strip("_") or "project"
    files = {path: text.replace("PROJECT_NAME", module) for path, text in _templates().items()}
    files["data.csv"] = _data()
    if taken := [path for path in files if (folder / path).exists()]:
        raise DefinitionError(f"'{folder / taken[0]}' exists already", hint="choose another name; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in files]


def _templates() -> dict[str, str]:
    folder = resources.files("mlops_assets.cli") / "template"
    return {entry.name.removesuffix(".txt"): entry.read_text(encoding="utf-8") for entry in sorted(folder.iterdir(), key=lambda e: e.name)}


def _data() -> str:
    """Real rows to begin with: the breast cancer diagnoses that scikit-learn carries (Wolberg, Street, Mangasarian 1995)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names[:10]]
    lines = [",".join(["patient", *names, "benign"])]
    lines += [
        ",".join(map(str, [i, *(float(v) for v in row[:10]), int(y)]))
        for i, (row, y) in enumerate(zip(data.data, data.target, strict=True))
    ]
    return "\n".join(lines) + "\n"
