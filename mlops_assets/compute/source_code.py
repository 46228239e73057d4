"""What a function's result depends on in the project's own code, found without running it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def source_hash(function: Callable[..., Any]) -> str:
    """Return a hash of a function and of every name of the project's own code that it uses, directly or not.

    Names are followed through the function's module and through modules beside it; a comment or a change elsewhere in the file changes
    nothing. Installed packages are left out: their versions are recorded by themselves.

    Parameters
    ----------
    function
        Defined in a file.
    """
    digest = hashlib.sha256()
    for part in sorted(set(_closure(function))):
        digest.update(part.encode())
    return digest.hexdigest()


def _closure(function: Callable[..., Any]) -> Iterator[str]:
    module = sys.modules.get(function.__module__)
    file = inspect.getsourcefile(function)
    if file is None:
        yield repr(function.__code__.co_code)
        return
    text = Path(file).read_text(encoding="utf-8")
    seen: set[tuple[str, str]] = set()
    if "<locals>" in function.__qualname__:
        node = _bare(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0])
        yield f"{function.__name__}={ast.dump(node)}"
        for used in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {function.__name__}:
            yield from _names(Path(file), text, used, getattr(module, "__dict__", {}), seen)
        return
    yield from _names(Path(file), text, function.__name__, getattr(module, "__dict__", {}), seen)


def _names(path: Path, text: str, name: str, scope: dict[str, Any], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the text of a top-level name and of the top-level names that it reads."""
    if (str(path), name) in seen:
        return
    seen.add((str(path), name))
    for node in ast.parse(text).body:
        if name not in set(_defined(node)):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _imported(path, node, name, scope, seen)
            continue
        yield f"{name}={ast.dump(_bare(node))}"
        for used in {n.id for n in ast.walk(_bare(node)) if isinstance(n, ast.Name)} - {name}:
            yield from _names(path, text, used, scope, seen)


def _bare(node: ast.stmt) -> ast.stmt:
    """Leave out decorators (gates and schedules do not change what is trained) and docstrings."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        return ast.FunctionDef(node.name, node.args, body or [ast.Pass()], [], node.returns)
    return node


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
        yield node.target.id


def _imported(path: Path, node: ast.Import | ast.ImportFrom, name: str, scope: dict[str, Any], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Follow an import into a file of the project; yield nothing for an installed package."""
    if isinstance(node, ast.Import):
        target, wanted = next(a.name for a in node.names if (a.asname or a.name.split(".")[0]) == name), None
    else:
        target, wanted = node.module or "", next(a.name for a in node.names if (a.asname or a.name) == name)
    file = project_file(path, target, getattr(node, "level", 0))
    if file is None:
        return
    text = file.read_text(encoding="utf-8")
    if wanted is None:
        yield ast.dump(ast.parse(text))
    else:
        yield from _names(file, text, wanted, scope, seen)


def project_file(path: Path, module: str, level: int) -> Path | None:
    """Return the file of a module that a file of the project imports; None when it is an installed package."""
    root = path.parent
    for _ in range(max(0, level - 1)):
        root = root.parent
    parts = module.split(".") if module else []
    beside = [root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")] if parts else [root / "__init__.py"]
    found = next((file for file in beside if file.exists()), None)
    if found is not None or level or not parts:
        return found
    return _importable(module)


def _importable(module: str) -> Path | None:
    """Return the file of a module of the project's package: one that is not installed among site-packages nor part of Python."""
    if module.split(".", maxsplit=1)[0] in sys.stdlib_module_names or module.split(".", maxsplit=1)[0] == "mlops_assets":
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    return None if origin is None or {"site-packages", "dist-packages"} & set(origin.parts) else origin
