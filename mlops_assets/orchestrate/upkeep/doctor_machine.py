"""The doctor's look at the machine: room, permissions, clock, packages."""

import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
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
    """Yield how much room is left where things are written."""
    for folder in sorted({_find_existing_folder(path) for path in _folders(platform).values()}):
        usage = shutil.disk_usage(folder)
        state = FAILURE if usage.free < _MIN_FREE else WARNING if usage.free < _LOW_FREE else OK
        text = f"{usage.free / 2**30:.1f} GiB are free at {folder}"
        yield Finding("disk", state, text, "make room: `mlops gc` removes what nothing needs" if state != OK else "")


def _folders(platform: Platform) -> dict[str, Path]:
    found = {"home": platform.home, "lake": platform.lake, "artifacts": platform.artifacts, "registry": _file_of(platform.registry)}
    return {name: Path(path) for name, path in found.items() if path and "://" not in path}


def _file_of(url: str) -> str:
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else ""


def _find_existing_folder(path: Path) -> Path:
    """Return the nearest folder that exists."""
    return path if path.is_dir() else _find_existing_folder(path.parent)


def check_permissions(platform: Platform) -> Iterator[Finding]:
    """Yield what cannot be written, and what anybody may write."""
    found = False
    for name, path in _folders(platform).items():
        if not path.exists():
            continue
        if not access(path, W_OK):
            found = True
            yield Finding.failed("permissions", f"{name} {path} cannot be written", f"chmod u+w {path}")
        if path.stat().st_mode & stat.S_IWOTH and not path.stat().st_mode & stat.S_ISVTX:
            found = True
            yield Finding("permissions", WARNING, f"{name} {path} can be written by anybody", f"chmod o-w {path}", _close_to_others(path))
    if not found:
        yield Finding("permissions", OK, "everything is writable, and by nobody else")


def _close_to_others(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202  (a fix)
    def fix() -> str:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~stat.S_IWOTH)
        return f"took the right to write {path} from others"

    return fix


def check_clock(stores: Stores) -> Iterator[Finding]:
    """Yield whether anything was recorded in the future, and whether the disk tells the same time as the machine."""
    now = datetime.now(UTC)
    runs, versions = stores.tracker.list(limit=1), stores.registry.versions()
    latest = max([*(run.started_at for run in runs), *(v.created_at for v in versions)], default=now)
    if latest - now > _MAX_CLOCK_SKEW:
        text = f"something was recorded at {latest:%Y-%m-%d %H:%M:%S}, which is in the future: the clock says {now:%Y-%m-%d %H:%M:%S} (UTC)"
        yield Finding.failed("clock", text, "set the clock, by NTP: schedules and what is newest are decided by it")
        return
    with tempfile.NamedTemporaryFile(dir=_find_existing_folder(Path(stores.platform.home))) as file:
        apart = abs(Path(file.name).stat().st_mtime - time.time())
    state = WARNING if apart > 5 else OK
    yield Finding(
        "clock", state, f"the clocks of machine and disk are {apart:.1f} s apart", "set the clocks, by NTP" if state != OK else ""
    )


def check_packages() -> Iterator[Finding]:
    """Yield dependencies outside of the ranges that this package knows to work, and which extras are installed."""
    wanted = [Requirement(line) for line in metadata.requires("mlops_assets") or ()]
    have, bad = installed_distributions(), False
    extras: dict[str, list[str]] = {}
    for requirement in wanted:
        name = canonical_name(requirement.name)
        extra = _extra_of(requirement)
        if extra and name != "mlops-assets":
            extras.setdefault(extra, []).append(name)
        if name in have and not requirement.specifier.contains(Version(have[name]), prereleases=True):
            bad = True
            yield Finding.failed(
                "packages",
                f"{name} {have[name]} is installed, outside of {requirement.specifier}",
                f"pip install '{name}{requirement.specifier}'",
            )
        elif name not in have and not extra and name != "mlops-assets":
            bad = True
            yield Finding.failed("packages", f"{name} is not installed", f"pip install '{name}{requirement.specifier}'")
    if not bad:
        whole = sorted(extra for extra, names in extras.items() if all(name in have for name in names))
        yield Finding("packages", OK, f"every version is in its range; extras: {', '.join(whole) or 'none'}")


def _extra_of(requirement: Requirement) -> str:
    marker = str(requirement.marker or "")
    return marker.split("extra ==", 1)[1].strip().strip("\"'") if "extra ==" in marker else ""
