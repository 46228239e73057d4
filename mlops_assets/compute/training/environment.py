"""The environment of a training: installed distributions, threads and hardware."""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DECIDING = ("numpy", "polars", "pandas", "scikit-learn", "scipy", "joblib", "threadpoolctl", "skops", "lightgbm", "xgboost", "catboost")
_DECIDING_MODULES = ("sklearn",)  # modules whose distribution in DECIDING has another name
_FIELD = re.compile(r"^(Name|Version):(.*)$", re.MULTILINE)
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


def canonical_name(name: str) -> str:
    """Return the normalised name of a distribution, as PEP 503 defines it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed_distributions() -> dict[str, str]:
    """Return normalised name → version of all installed distributions, sorted by name; the first one on ``sys.path`` of duplicates."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        fields = _read_fields(distribution)
        if "Name" in fields and "Version" in fields:
            versions.setdefault(canonical_name(fields["Name"]), fields["Version"])
    return dict(sorted(versions.items()))


def _read_fields(distribution: metadata.Distribution) -> dict[str, str]:
    """Return ``Name`` and ``Version`` of a distribution, without fields that its metadata lacks.

    The parser of ``importlib`` also reads the description, which takes about a second for all distributions.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    return {match[1]: match[2].strip() for match in _FIELD.finditer(head)}


@cache
def local_distributions() -> frozenset[str]:
    """Return the normalised names of distributions installed from a folder, file or URL rather than from a package index."""
    local = [d for d in metadata.distributions() if d.read_text("direct_url.json")]
    return frozenset(canonical_name(d.metadata["Name"]) for d in local if d.metadata["Name"])


def format_lock(versions: Mapping[str, str]) -> str:
    """Return name → version as lines ``name==version`` of a requirements file, sorted by name."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def parse_lock(text: str) -> dict[str, str]:
    """Return name → version of a requirements file written by :func:`format_lock`."""
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)


def deciding_packages(roots: Iterable[str]) -> dict[str, str]:
    """Return name → version of Python and of the packages that affect results: numeric libraries, and the owners of ``roots``.

    Parameters
    ----------
    roots
        Top-level modules that the code and the estimator import.
    """
    installed = installed_distributions()
    third_party = {root for root in roots if root not in sys.stdlib_module_names and root not in {"mlops_assets", *_DECIDING_MODULES}}
    same_named = {canonical_name(root) for root in third_party if canonical_name(root) in installed}
    # Indexing all modules is slow. It is skipped for a module whose distribution has the same name, as most have.
    unmatched = {root for root in third_party if canonical_name(root) not in installed}
    names = {*DECIDING, *same_named, *(canonical_name(name) for root in unmatched for name in _find_owners().get(root, ()))}
    return {"python": platform.python_version(), **{name: installed[name] for name in sorted(names) if name in installed}}


@cache
def _find_owners() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def find_root_modules(estimator: Any) -> set[str]:  # noqa: ANN401  (any estimator)
    """Return the top-level modules that define an estimator and its parameters' values, without ``builtins``."""
    get_params = getattr(estimator, "get_params", None)
    parts = [estimator, *(get_params(deep=True).values() if get_params else ())]
    return {type(part).__module__.split(".")[0] for part in parts} - {"builtins"}


def thread_settings() -> dict[str, Any]:
    """Return the usable CPUs, the thread-count variables that are set, and the threads, architecture and version of each thread library."""
    from threadpoolctl import threadpool_info

    variables = {name: os.environ[name] for name in _THREADS if name in os.environ}
    # Several packages bundle a copy of one library: name the package too.
    pools = {f"{Path(pool['filepath']).parent.name.removesuffix('.libs')}.{pool['internal_api']}": pool for pool in threadpool_info()}
    libraries = {
        f"{name}.{key}": pool[key] for name, pool in pools.items() for key in ("num_threads", "architecture", "version") if pool.get(key)
    }
    return {"cpus": _count_cpus(), **dict(sorted({**variables, **libraries}.items()))}


def _count_cpus() -> int:
    usable = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(usable(0)) if usable else os.cpu_count() or 1


def read_hardware() -> dict[str, Any]:
    """Return the machine architecture, the name of the processor, and the memory in GiB."""
    import psutil

    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"machine": platform.machine(), "processor": _processor_name(), "memory_gib": memory}


@cache
def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor()
