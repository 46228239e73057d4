"""The project's types and functions in a stored model: hashes of their code, and what has changed since training."""

from __future__ import annotations

import inspect
import sys
import types
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.user_code.source_code import source_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SOURCES = "sources"  # in a manifest: qualified name → hash of its code
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_INSTALLED = {"site-packages", "dist-packages"}


def hash_sources(estimator: Any, trusted: Sequence[str]) -> dict[str, str]:  # noqa: ANN401  (any estimator)
    """Return qualified name → hash of the code, for every type and function of the project in an estimator.

    Parameters
    ----------
    estimator
        Fitted.
    trusted
        Qualified names of types that the project trusts; those that the project defines are included, even if the estimator has no
        instance of them.
    """
    kinds = {_qualified_name(kind): kind for kind in _find_project_code(estimator)}
    kinds |= {name: kind for name in trusted if (kind := _resolve(name)) is not None and _is_project_code(kind)}
    return {name: source_hash(kind) for name, kind in sorted(kinds.items())}


def changed_sources(manifest: Mapping[str, Any]) -> list[str]:
    """Describe each type or function of the project whose code has changed since training, or that no longer exists.

    Modules that are not loaded are not compared, because a name from an artifact must not cause an import.

    Parameters
    ----------
    manifest
        Manifest of the model; a manifest of an older release may contain no hashes.
    """
    return [text for name, recorded in manifest.get(SOURCES, {}).items() if (text := _describe_change(name, recorded))]


def _describe_change(name: str, recorded: str) -> str:
    """Describe how a type or function differs from the recorded hash of its code; ``""`` when it does not, or is not loaded."""
    kind = _resolve(name, loaded=True)
    if kind is None:
        return f"{name} no longer exists" if _is_gone(name) else ""
    if source_hash(kind) == recorded:
        return ""
    defined = inspect.unwrap(kind)
    file, line = inspect.getsourcefile(defined) or "unknown", inspect.getsourcelines(defined)[1]
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"the code of {name}, or code that it uses, has changed ({shown}:{line})"


def _find_project_code(estimator: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the types and functions of the project that an estimator contains."""
    waiting, seen = [estimator], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        kind = value if isinstance(value, types.FunctionType) else type(value)
        if _is_project_code(kind):
            yield kind
        waiting += _list_parts(value)


def _list_parts(value: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, type | types.ModuleType | types.FunctionType):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _is_project_code(kind: Any) -> bool:  # noqa: ANN401  (a type or a function)
    """Whether a type or function can be imported by name from a file that is neither installed nor part of ``mlops_assets``."""
    if not isinstance(kind, type | types.FunctionType) or "<" in kind.__qualname__ or kind.__module__.split(".")[0] == "mlops_assets":
        return False
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # built in
        return False
    return file is not None and Path(file).is_file() and not _is_installed(Path(file)) and _resolve(_qualified_name(kind)) is kind


def _is_installed(file: Path) -> bool:
    return bool(_INSTALLED & set(file.parts)) or file.is_relative_to(Path(inspect.__file__).parent)


def _qualified_name(kind: Any) -> str:  # noqa: ANN401
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_gone(name: str) -> bool:
    """Whether an unresolved name no longer exists: its module is loaded without it, or its top-level package cannot be found."""
    return any(name.startswith(f"{module}.") for module in tuple(sys.modules)) or find_spec(name.partition(".")[0]) is None


def _resolve(name: str, *, loaded: bool = False) -> Any:  # noqa: ANN401
    """Return the object of a qualified name; None where it does not exist.

    Parameters
    ----------
    name
        Module and name.
    loaded
        Whether only loaded modules are searched, so that an artifact cannot cause an import.
    """
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        try:
            value: Any = sys.modules.get(module) if loaded else import_module(module)
        except ImportError:
            continue
        if value is None:
            continue
        for part in parts[end:]:
            value = getattr(value, part, None)
        return value
    return None
