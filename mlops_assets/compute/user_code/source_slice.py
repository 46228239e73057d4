"""Extract a slice of the project: the text of a function with all project code that it needs, which runs without the project.

The slice has the code that :func:`mlops_assets.compute.user_code.source_code.source_hash` covers: top-level names, followed through the
project's files. A top-level statement that binds no name, such as ``sklearn.set_config(...)``, is not part of the slice.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
import textwrap
from dataclasses import dataclass, field
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.user_code.function_decorators import select_code_decorators
from mlops_assets.compute.user_code.source_code import list_layers, project_file
from mlops_assets.errors import DefinitionError
from mlops_assets.values.function import UserFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_EVERYTHING = "*"


@dataclass
class _Module:
    """One project file, with the statements that the function needs."""

    path: Path
    lines: list[str]
    tree: ast.Module
    needed: set[int] = field(default_factory=set)  # indices in the body of ``tree``
    seen: set[str] = field(default_factory=set)  # names that were looked up
    kept: dict[int, list[ast.expr]] = field(default_factory=dict)  # index of the entry function → the decorators that are kept


class _Slicer:
    """Finds the statements of project files that a function needs, and collects them in ``modules`` by module name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.modules: dict[str, _Module] = {}

    def load_module(self, name: str, path: Path) -> _Module:
        if name not in self.modules:
            text = path.read_text(encoding="utf-8")
            self.modules[name] = _Module(path, text.split("\n"), ast.parse(text))
        return self.modules[name]

    def keep_name(self, module: str, path: Path, name: str, *, entry: bool = False) -> bool:
        """Keep the statements that bind a name, with their dependencies; with ``entry``, without decorators of ``mlops_assets``.

        Return whether any statement binds the name; True for a name that was looked up before.
        """
        held = self.load_module(module, path)
        if name in held.seen:
            return True
        held.seen.add(name)
        binding = [(i, node) for i, node in enumerate(held.tree.body) if name == _EVERYTHING or name in set(_bound_names(node))]
        for index, node in binding:
            held.needed.add(index)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.follow_import(module, path, node, name)
            else:
                decorators = getattr(node, "decorator_list", [])
                if entry:
                    held.kept[index] = select_code_decorators(node, held.tree, self.function.__globals__)
                for used in _used_names(node, excluded=[each for each in decorators if each not in held.kept.get(index, decorators)]):
                    self.keep_name(module, path, used)
                self.follow_inner_imports(module, path, node)
        return bool(binding)

    def follow_inner_imports(self, module: str, path: Path, node: ast.stmt) -> None:
        """Follow the imports inside a statement, such as those of a function's body."""
        for inner in ast.walk(node):
            if isinstance(inner, (ast.Import, ast.ImportFrom)):
                for alias in inner.names:
                    self.follow_import(module, path, inner, alias.asname or alias.name.split(".")[0])

    def follow_import(self, module: str, path: Path, node: ast.Import | ast.ImportFrom, name: str) -> None:
        """Follow what an import binds to a name into project files; skip installed packages."""
        for alias in node.names:
            if name not in (_EVERYTHING, alias.asname or alias.name.split(".")[0]):
                continue
            if isinstance(node, ast.Import):
                self._add_module(path, alias.name, 0, alias.name)
                continue
            target, level = node.module or "", node.level
            absolute = resolve_name("." * level + target, _parent_package(module, path)) if level else target
            beneath = f"{target}.{alias.name}" if target else alias.name
            if (file := project_file(path, target, level)) is not None and self.keep_name(absolute, file, alias.name):
                continue
            self._add_module(path, beneath, level, f"{absolute}.{alias.name}")

    def _add_module(self, path: Path, target: str, level: int, absolute: str) -> None:
        if (file := project_file(path, target, level)) is not None:
            self.keep_name(absolute, file, _EVERYTHING)


def extract_source(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function with the project code it needs, as JSON-compatible values.

    Parameters
    ----------
    function
        A function that is defined in a file.

    Returns
    -------
    dict
        ``entry`` and ``function``: the module and name of the function; ``modules``: module name → text.

    Raises
    ------
    DefinitionError
        The source cannot be stored: the function is not in a file, closes over variables of another function, has no name, or is
        wrapped by a function that no decorator of its definition names.
    """
    *wrappers, function = list_layers(function)
    file = inspect.getsourcefile(function)
    if file is None or not Path(file).exists():
        raise DefinitionError(f"the source of '{function.__name__}' is in no file", hint="define it in a module of the project")
    if function.__code__.co_freevars:
        raise DefinitionError(
            f"'{function.__name__}' closes over '{function.__code__.co_freevars[0]}', whose value is not in the source",
            hint="define the function at the top level of a module",
        )
    path, entry = Path(file), function.__module__ if function.__module__ != "__main__" else Path(file).stem
    slicer, nested = _Slicer(function), ""
    if "<locals>" in function.__qualname__:
        node = _read_nested_function(function, slicer.load_module(entry, path).tree)
        nested, kept = ast.unparse(node), node.decorator_list
        for used in _used_names(node):
            slicer.keep_name(entry, path, used)
        slicer.follow_inner_imports(entry, path, node)
    else:
        slicer.keep_name(entry, path, function.__name__, entry=True)
        kept = [each for decorators in slicer.modules[entry].kept.values() for each in decorators]
    if len(wrappers) > len(kept):
        raise DefinitionError(
            f"'{function.__name__}' is wrapped by a function that is not among its decorators",
            hint="decorate its definition with @",
        )
    texts = {name: _render_module(held) for name, held in slicer.modules.items()}
    texts[entry] += f"\n\n{nested}\n" if nested else ""
    return {"entry": entry, "function": function.__name__, "modules": dict(sorted(texts.items()))}


def _read_nested_function(function: Callable[..., Any], tree: ast.Module) -> ast.FunctionDef:
    """Return the definition of a function inside another one, without decorators of ``mlops_assets``.

    Raise DefinitionError for a lambda, and for a decorator that is itself defined inside a function.
    """
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise DefinitionError(f"'{function.__name__}' is not a function with a name", hint="define it with def")
    node.decorator_list = select_code_decorators(node, tree, function.__globals__)
    names = {n.id for each in node.decorator_list for n in ast.walk(each) if isinstance(n, ast.Name)}
    if unknown := names - {*function.__globals__, *vars(builtins)}:
        raise DefinitionError(
            f"the decorators of '{function.__name__}' use '{min(unknown)}', which is defined inside another function",
            hint=f"define '{min(unknown)}' at the top level of a module",
        )
    return node


def load_source(stored: Mapping[str, Any], folder: Path) -> Callable[..., Any]:
    """Write a stored source into a folder and import the function from there.

    The folder comes first on the import path, so call this in a separate process.

    Parameters
    ----------
    stored
        The result of :func:`extract_source`.
    folder
        An empty folder.
    """
    packages = {name.rpartition(".")[0] for name in stored["modules"]}
    for name, text in stored["modules"].items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            package = folder.joinpath(*parts[:depth])
            package.mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").touch()
        file = folder.joinpath(*parts, "__init__.py") if name in packages else folder.joinpath(*parts).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    function: Callable[..., Any] = getattr(importlib.import_module(stored["entry"]), stored["function"])
    declared = getattr(function, "function", None)  # a decorator of the project may have declared it
    return declared.function if isinstance(declared, UserFunction) else function


def imported_packages(stored: Mapping[str, Any]) -> set[str]:
    """Return the top-level packages that a stored source imports by absolute name, including the project and the standard library."""
    nodes = [node for text in stored["modules"].values() for node in ast.walk(ast.parse(text))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level}}


def _parent_package(module: str, path: Path) -> str:
    """Return the package that relative imports of a module start from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def _used_names(node: ast.stmt, excluded: Sequence[ast.expr] = ()) -> set[str]:
    """Return the names that a statement uses, except the names in the decorators ``excluded``."""
    skipped = {id(n) for decorator in excluded for n in ast.walk(decorator)}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in skipped}


def _bound_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, also inside loops, conditions, ``with`` and ``try``."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
        yield from (name for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt) for name in _bound_names(inner))
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    else:
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _render_module(held: _Module) -> str:
    """Return the text of a module's needed statements, in their order and with its imports from ``__future__``."""
    future = {i for i, n in enumerate(held.tree.body) if isinstance(n, ast.ImportFrom) and n.module == "__future__"}
    return "\n\n".join(_read_source(held, index) for index in sorted(held.needed | future)) + "\n"


def _list_unneeded(held: _Module, node: ast.Import | ast.ImportFrom) -> list[ast.alias]:
    """Return the project names that an import binds and no needed statement uses; the slice may lack their definitions."""
    if _EVERYTHING in held.seen:
        return []
    unused = [alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) not in held.seen | {_EVERYTHING}]
    return [alias for alias in unused if _is_of_project(held.path, node, alias)]


def _is_of_project(path: Path, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
    """Return True if a name that a project file imports is a module of the project, or comes from one."""
    if isinstance(node, ast.Import):
        return project_file(path, alias.name, 0) is not None
    target = node.module or ""
    beneath = f"{target}.{alias.name}" if target else alias.name
    return any(project_file(path, name, node.level) is not None for name in (target, beneath))


def _read_source(held: _Module, index: int) -> str:
    """Return the text of a statement with its decorators; for the entry function, only with the kept decorators."""
    node = held.tree.body[index]
    if isinstance(node, (ast.Import, ast.ImportFrom)) and (unneeded := _list_unneeded(held, node)):
        node.names = [alias for alias in node.names if alias not in unneeded]
        return ast.unparse(node)
    decorators = getattr(node, "decorator_list", [])
    if decorators and index not in held.kept:
        return "\n".join(held.lines[decorators[0].lineno - 1 : node.end_lineno])
    *lines, last = held.lines[node.lineno - 1 : node.end_lineno]
    # Columns are counted in bytes of UTF-8, and a statement may follow another on its line.
    segment = "\n".join([*lines, last.encode()[: node.end_col_offset].decode()]).encode()[node.col_offset :].decode()
    return "\n".join([*(f"@{ast.unparse(each)}" for each in held.kept.get(index, [])), segment])
