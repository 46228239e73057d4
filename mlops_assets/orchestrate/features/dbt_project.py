"""Prepare a dbt project for the lake: profiles, the path of the lock, and a manifest that is never stale."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError, InstallationError, MissingExtraError
from mlops_assets.orchestrate.features.dbt_process import LOCK_FILE
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.lake.connection import LakeAttachment, describe_attachment, link_extensions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.platform import Platform

# The environment passes the window of a run to the models: with dbt vars, dbt would parse the whole project again each time.
WINDOW_START, WINDOW_END = "MLOPS_WINDOW_START", "MLOPS_WINDOW_END"
_ATTEMPTS = 3  # to read the manifest that dbt has written
PARSE_WINDOW = {WINDOW_START: "2000-01-01T00:00:00+00:00", WINDOW_END: "2000-01-02T00:00:00+00:00"}


@dataclass(frozen=True)
class DbtFolder:
    """A dbt project on disk, and the folder of its artifacts.

    Parameters
    ----------
    path
        The path in the declaration.
    platform
        Where the lake is.
    """

    path: str
    platform: Platform

    @cached_property
    def source(self) -> Path:
        """The folder with ``dbt_project.yml``; a relative path is looked up in the current folder, then in each folder of ``sys.path``."""
        candidates = [Path(self.path)] if Path(self.path).is_absolute() else [Path(base or ".") / self.path for base in ("", *sys.path)]
        folder = next((path for path in candidates if (path / "dbt_project.yml").exists()), None)
        if folder is None:
            raise DefinitionError(
                f"the dbt project '{self.path}' has no dbt_project.yml",
                hint="give its folder, e.g. DbtProject(str(Path(__file__).parent / 'dbt_features'))",
            )
        return folder.absolute()

    @property
    def work(self) -> Path:
        """The folder of profiles, logs and compiled artifacts."""
        return Path(self.platform.home) / "dbt" / self.source.name

    @property
    def target(self) -> Path:
        """The folder of the manifest and of partial parsing."""
        return self.work / "target"

    def prepare(self) -> None:
        """Write the profiles, and parse the project if its files have changed."""
        self.manifest()

    def manifest(self) -> Mapping[str, Any]:
        """Return the manifest of the project's current files; parse the project only if they have changed.

        The manifest is cached as a copy, because each dbt build overwrites the original.
        """
        self._write_profiles()
        copy, files = self.work / "parsed.json", self._hash_files()
        with hold_lock(self.work / "parse.lock"):  # two parsers at once would overwrite each other's files
            if (stored := _read_json(copy)) and stored["files"] == files:
                return stored["manifest"]  # type: ignore[no-any-return]
            manifest = self._parse_manifest()
            write_atomically(copy, json.dumps({"files": files, "manifest": manifest}).encode())
        return manifest

    def _parse_manifest(self) -> Mapping[str, Any]:
        """Parse the project and return its manifest; try again when a concurrent build has overwritten the file in part."""
        for _ in range(_ATTEMPTS):
            self._parse()
            if manifest := _read_json(self.target / "manifest.json"):
                return manifest
        raise InstallationError(
            f"dbt's manifest '{self.target / 'manifest.json'}' cannot be read, although dbt has just written it",
            hint="check that no other program writes into this folder, and that the disk is not full",
        )

    def read_compiled_sql(self, model: str) -> str:
        """Return the SQL of a model from its last run; empty before the first run."""
        file = next((self.target / "compiled").rglob(f"{model}.sql"), None)
        return "" if file is None else file.read_text(encoding="utf-8")

    def _write_profiles(self) -> None:
        lake = describe_attachment(Path(self.platform.lake))
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            link_extensions(self.work / "extensions")
            _write_if_changed(
                self.work / "profiles.yml", json.dumps(_build_profiles(lake, self.work / "extensions"), indent=2)
            )  # JSON is YAML
            _write_if_changed(self.work / LOCK_FILE, str(lake.lock_path))
        except OSError as error:
            raise InstallationError(
                f"'{self.work}' cannot be written: {error.strerror}", hint="make it writable, or set MLOPS_HOME to another folder"
            ) from error

    def _hash_files(self) -> str:
        """Return a hash of the files that dbt parses, and of the path of ``mlops-dbt``."""
        digest = hashlib.sha256(find_mlops_dbt().encode())
        for file in sorted(
            p for p in self.source.rglob("*") if p.suffix in {".sql", ".yml", ".yaml", ".csv", ".py"} and "target" not in p.parts
        ):
            digest.update(str(file.relative_to(self.source)).encode() + file.read_bytes())
        return digest.hexdigest()

    def _parse(self) -> None:
        folders = [
            "--project-dir",
            str(self.source),
            "--profiles-dir",
            str(self.work),
            "--target-path",
            str(self.target),
            "--log-path",
            str(self.target),
        ]
        process = subprocess.run(  # noqa: S603  (our own executable, our own arguments)
            [find_mlops_dbt(), "--no-use-colors", "parse", *folders],
            env=dict(os.environ) | PARSE_WINDOW,
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            raise DefinitionError(
                f"dbt cannot parse '{self.path}': {_last_lines(process.stdout or process.stderr)}",
                hint=f"correct the project; the whole message: {self.target / 'dbt.log'}",
            )


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the contents of a JSON file; None when it is missing or incomplete."""
    try:
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return contents


def find_mlops_dbt() -> str:
    """Return the path of ``mlops-dbt``: next to the interpreter, else on the search path.

    Raises
    ------
    MissingExtraError
        ``mlops-dbt`` is not installed.
    """
    neighbour = Path(sys.executable).parent / "mlops-dbt"
    path = str(neighbour) if neighbour.exists() else shutil.which("mlops-dbt")
    if path is None:
        raise MissingExtraError.from_extra("dbt", "dbt")
    return path


def _build_profiles(lake: LakeAttachment, extensions: Path) -> dict[str, Any]:
    """Return dbt profiles that attach the lake as this package does.

    They use one thread, because DuckLake's writers must not overlap.
    """
    attach = {
        "path": lake.path,
        "alias": "lake",
        "options": dict(lake.options),
    }
    output = {
        "type": "duckdb",
        "path": ":memory:",
        "schema": "features",
        "threads": 1,
        "settings": {"TimeZone": "UTC"},
        "config_options": {"extension_directory": str(extensions)},
        "extensions": ["ducklake", "sqlite_scanner"],
        "attach": [attach],
    }
    return {"mlops_lake": {"target": "lake", "outputs": {"lake": output}}}


def _write_if_changed(path: Path, text: str) -> None:
    """Write a file only if its text has changed: dbt parses the whole project again when its profiles are newer."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _last_lines(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return " ".join(lines[-6:])
