"""What a dbt project needs to run on the lake: profiles, the lock's name, and a manifest that is never stale."""

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

from mlops_assets.errors import DefinitionError, MissingExtraError, PlatformError
from mlops_assets.orchestrate.features.dbt_process import LOCK_FILE
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.lake.connection import LakeAttachment, describe_attachment, link_extensions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.platform import Platform

# The window of a run reaches the models by the environment: other dbt vars would make dbt parse the whole project again each time.
WINDOW_START, WINDOW_END = "MLOPS_WINDOW_START", "MLOPS_WINDOW_END"
_ATTEMPTS = 3  # to read what dbt has written
PARSE_WINDOW = {WINDOW_START: "2000-01-01T00:00:00+00:00", WINDOW_END: "2000-01-02T00:00:00+00:00"}


@dataclass(frozen=True)
class DbtFolder:
    """A dbt project on disk, and where its artifacts go.

    Parameters
    ----------
    path
        As declared.
    platform
        Where the lake is.
    """

    path: str
    platform: Platform

    @cached_property
    def source(self) -> Path:
        """The folder with ``dbt_project.yml``: beside the project file, as relative paths are there."""
        tried = [Path(self.path)] if Path(self.path).is_absolute() else [Path(base or ".") / self.path for base in ("", *sys.path)]
        found = next((place for place in tried if (place / "dbt_project.yml").exists()), None)
        if found is None:
            raise DefinitionError(
                f"the dbt project '{self.path}' has no dbt_project.yml",
                hint="give its folder, e.g. DbtProject(str(Path(__file__).parent / 'dbt_features'))",
            )
        return found.absolute()

    @property
    def work(self) -> Path:
        """The folder of profiles, logs and compiled artifacts."""
        return Path(self.platform.home) / "dbt" / self.source.name

    @property
    def target(self) -> Path:
        """The folder of the manifest and of partial parsing."""
        return self.work / "target"

    def prepare(self) -> None:
        """Write the profiles, and parse the project when its files have changed."""
        self.manifest()

    def manifest(self) -> Mapping[str, Any]:
        """Return the manifest that fits the project's files: a copy of our own, as dbt rewrites its own in place whenever it builds."""
        self._write_profiles()
        kept, files = self.work / "parsed.json", self._content()
        with hold_lock(self.work / "parse.lock"):  # two that parse at once would write into each other's files
            if (known := _read_json(kept)) and known["files"] == files:
                return known["manifest"]  # type: ignore[no-any-return]
            manifest = self._parsed()
            write_atomically(kept, json.dumps({"files": files, "manifest": manifest}).encode())
        return manifest

    def _parsed(self) -> Mapping[str, Any]:
        """Parse the project; again when what dbt wrote was torn by a build that rewrote it at the same time."""
        for _ in range(_ATTEMPTS):
            self._parse()
            if manifest := _read_json(self.target / "manifest.json"):
                return manifest
        raise PlatformError(
            f"dbt's manifest '{self.target / 'manifest.json'}' cannot be read, although dbt has just written it",
            hint="see that nothing else writes into this folder, and that the disk is not full",
        )

    def compiled(self, model: str) -> str:
        """Return the SQL of a model as dbt last ran it; empty when it never did."""
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
            raise PlatformError(
                f"'{self.work}' cannot be written: {error.strerror}", hint="make it writable, or set MLOPS_HOME to another folder"
            ) from error

    def _content(self) -> str:
        """Hash every file that dbt parses."""
        digest = hashlib.sha256(find_executable().encode())
        for file in sorted(
            p for p in self.source.rglob("*") if p.suffix in {".sql", ".yml", ".yaml", ".csv", ".py"} and "target" not in p.parts
        ):
            digest.update(str(file.relative_to(self.source)).encode() + file.read_bytes())
        return digest.hexdigest()

    def _parse(self) -> None:
        stores = [
            "--project-dir",
            str(self.source),
            "--profiles-dir",
            str(self.work),
            "--target-path",
            str(self.target),
            "--log-path",
            str(self.target),
        ]
        done = subprocess.run(  # noqa: S603  (our own executable, our own arguments)
            [find_executable(), "--no-use-colors", "parse", *stores],
            env=dict(os.environ) | PARSE_WINDOW,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DefinitionError(
                f"dbt cannot parse '{self.path}': {_last_lines(done.stdout or done.stderr)}",
                hint=f"mend the project; the whole message: {self.target / 'dbt.log'}",
            )


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file says; None when there is none, or half of one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def find_executable() -> str:
    """Return the path of ``mlops-dbt``, which stands beside the interpreter even when the environment is not activated."""
    beside = Path(sys.executable).parent / "mlops-dbt"
    found = str(beside) if beside.exists() else shutil.which("mlops-dbt")
    if found is None:
        raise MissingExtraError.from_extra("dbt", "dbt")
    return found


def _build_profiles(lake: LakeAttachment, extensions: Path) -> dict[str, Any]:
    """Attach the lake to dbt exactly as our own connections do; one thread, as DuckLake's writers must not overlap."""
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
    """Write only what changed: dbt parses everything again when its profiles look newer."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _last_lines(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return " ".join(lines[-6:])
