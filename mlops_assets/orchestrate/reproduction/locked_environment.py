"""Virtual environments with the library versions that a training recorded."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from mlops_assets.compute.training.environment import installed_distributions, local_distributions
from mlops_assets.errors import InstallationError
from mlops_assets.stores.base.lock import hold_lock

_DONE = "complete"


def prepare_locked_python(versions: Mapping[str, str], home: str) -> Path:
    """Return the interpreter of an environment with the wanted versions: the current one if it has them, else that of a new environment.

    A new environment is cached in the home of the platform for the next call. It reuses packages of the current environment that have the
    wanted version. The others are installed with uv or pip from the index that the user has configured. This package, pip, setuptools, and
    packages installed from a folder, such as the project itself, keep their current version.

    Parameters
    ----------
    versions
        Distribution → version.
    home
        The home of the platform.

    Raises
    ------
    InstallationError
        A version cannot be installed.
    """
    installed, own = installed_distributions(), local_distributions() | {"mlops-assets", "pip", "setuptools"}
    missing = {name: version for name, version in versions.items() if installed.get(name) != version and name not in own}
    if not missing:
        return Path(sys.executable)
    digest = hashlib.sha256(repr((sorted(missing.items()), sys.version, sys.prefix)).encode()).hexdigest()[:16]
    folder = Path(home) / "environments" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    with hold_lock(folder.parent / f"{digest}.lock"):
        if not (folder / _DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _create_environment(folder, python, missing)
            (folder / _DONE).touch()
    return python


def _create_environment(folder: Path, python: Path, missing: Mapping[str, str]) -> None:
    """Create a virtual environment that falls back to the packages of the current one, and install the missing versions."""
    import venv

    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    site_folders = [
        path for path in dict.fromkeys((*sys.path, sysconfig.get_path("purelib"))) if path.endswith(("site-packages", "dist-packages"))
    ]
    # addsitedir reads the .pth files there too, which a plain line would not: they list packages that are installed from a folder.
    lines = "; ".join(["import site", *(f"site.addsitedir({path!r})" for path in site_folders)])
    (site / "below.pth").write_text(f"{lines}\n", encoding="utf-8")
    pins = [f"{name}=={version}" for name, version in sorted(missing.items())]
    install = subprocess.run([*_install_command(python), *pins], capture_output=True, text=True, check=False, env={**os.environ})  # noqa: S603
    if install.returncode:
        output = (install.stderr or install.stdout).strip().splitlines()
        raise InstallationError(
            f"the recorded versions cannot be installed: {', '.join(pins[:5])}: {output[-1] if output else 'no reason was given'}",
            hint="configure the index that has them for pip or uv, or use the installed libraries: --env current",
        )


def _install_command(python: Path) -> list[str]:
    installed_uv = Path(sys.executable).with_name("uv")
    uv = str(installed_uv) if installed_uv.exists() else shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
