"""Checks of the machine: free space, permissions, clock and packages."""

import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from os import W_OK, access
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from mlops_assets.compute.training.environment import canonical_name, installed_distributions
from mlops_assets.orchestrate.upkeep.findings import FAILURE, OK, WARNING, Finding
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.platform import Platform

_MIN_FREE, _LOW_FREE = 200 * 2**20, 2 * 2**30  # bytes
_MAX_CLOCK_SKEW = timedelta(seconds=60)


def check_disk_space(platform: Platform) -> Iterator[Finding]:
    """Yield the free space of the disks with home, lake, artifacts and registry; under 200 MiB is a failure, under 2 GiB a warning."""
    for folder in sorted({_find_existing_folder(path) for path in _list_folders(platform).values()}):
        usage = shutil.disk_usage(folder)
        state = FAILURE if usage.free < _MIN_FREE else WARNING if usage.free < _LOW_FREE else OK
        text = f"{usage.free / 2**30:.1f} GiB are free at {folder}"
        yield Finding("disk", state, text, "free some space: `mlops gc` removes unused files" if state != OK else "")


def _list_folders(platform: Platform) -> dict[str, Path]:
    paths = {"home": platform.home, "lake": platform.lake, "artifacts": platform.artifacts, "registry": _sqlite_path(platform.registry)}
    return {name: Path(path) for name, path in paths.items() if path and "://" not in path}


def _sqlite_path(url: str) -> str:
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else ""


def _find_existing_folder(path: Path) -> Path:
    """Return a folder, or its nearest parent folder that exists."""
    return path if path.is_dir() else _find_existing_folder(path.parent)


def check_permissions(platform: Platform) -> Iterator[Finding]:
    """Yield which of home, lake, artifacts and registry this user cannot write, and which every user can write."""
    has_problem = False
    for name, path in _list_folders(platform).items():
        if not path.exists():
            continue
        if not access(path, W_OK):
            has_problem = True
            yield Finding.failure("permissions", f"{name} {path} cannot be written", f"chmod u+w {path}")
        if path.stat().st_mode & stat.S_IWOTH and not path.stat().st_mode & stat.S_ISVTX:
            has_problem = True
            yield Finding(
                "permissions", WARNING, f"{name} {path} can be written by every user", f"chmod o-w {path}", _build_permission_fix(path)
            )
    if not has_problem:
        yield Finding("permissions", OK, "everything is writable, and by no other user")


def _build_permission_fix(path: Path) -> Callable[[], str]:
    def fix() -> str:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~stat.S_IWOTH)
        return f"removed the write permission of other users from {path}"

    return fix


def check_clock(stores: Stores) -> Iterator[Finding]:
    """Yield the latest record if it is dated in the future, else the difference between the clocks of disk and machine."""
    now = datetime.now(UTC)
    runs, versions = stores.tracker.list(limit=1), stores.registry.versions()
    latest = max([*(run.started_at for run in runs), *(v.created_at for v in versions)], default=now)
    if latest - now > _MAX_CLOCK_SKEW:
        text = f"something was recorded at {latest:%Y-%m-%d %H:%M:%S}, which is in the future: the clock says {now:%Y-%m-%d %H:%M:%S} (UTC)"
        yield Finding.failure("clock", text, "set the clock by NTP: schedules and the newest version depend on it")
        return
    with tempfile.NamedTemporaryFile(dir=_find_existing_folder(Path(stores.platform.home))) as file:
        difference = abs(Path(file.name).stat().st_mtime - time.time())
    state = WARNING if difference > 5 else OK
    yield Finding(
        "clock", state, f"the clocks of machine and disk are {difference:.1f} s apart", "set the clocks by NTP" if state != OK else ""
    )


def check_packages() -> Iterator[Finding]:
    """Yield missing dependencies and those outside of their supported ranges; if there are none, name the installed extras."""
    requirements = [Requirement(line) for line in metadata.requires("mlops_assets") or ()]
    installed, has_problem = installed_distributions(), False
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        name = canonical_name(requirement.name)
        extra = _find_extra(requirement)
        if extra and name != "mlops-assets":
            extras.setdefault(extra, []).append(name)
        if name in installed and not requirement.specifier.contains(Version(installed[name]), prereleases=True):
            has_problem = True
            yield Finding.failure(
                "packages",
                f"{name} {installed[name]} is installed, outside of {requirement.specifier}",
                f"pip install '{name}{requirement.specifier}'",
            )
        elif name not in installed and not extra and name != "mlops-assets":
            has_problem = True
            yield Finding.failure("packages", f"{name} is not installed", f"pip install '{name}{requirement.specifier}'")
    if not has_problem:
        complete = sorted(extra for extra, names in extras.items() if all(name in installed for name in names))
        yield Finding("packages", OK, f"every version is in its range; extras: {', '.join(complete) or 'none'}")


def _find_extra(requirement: Requirement) -> str:
    marker = str(requirement.marker or "")
    return marker.split("extra ==", 1)[1].strip().strip("\"'") if "extra ==" in marker else ""
