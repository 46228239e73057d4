"""Hash the code and configuration of the project that a function depends on, without running the function."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.user_code.function_decorators import select_code_decorators
from mlops_assets.compute.user_code.held_values import is_cached_reader, is_computed, iterate_held_values, queries_file
from mlops_assets.compute.user_code.module_values import UnrecordableError, canonicalise_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from importlib.machinery import ModuleSpec

_READERS = ("polars", "duckdb", "pyarrow")  # they open files in native code, which triggers no audit hook
_EVERYTHING = "*"
_INSTALLED = {"site-packages", "dist-packages"}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)


@dataclass(frozen=True)
class _Value:
    """A value that the code does not show: the value of a module-level name, or a value that a class or function holds."""

    module: Mapping[str, Any] = field(repr=False, hash=False, compare=False)  # holds the value under ``name``
    folder: str  # of the file
    label: str  # FILE:NAME, for error messages
    name: str
    used: bool  # False: used only if the code names an attribute ``name``


@dataclass
class _Closure:
    """All project code that a function uses, directly or indirectly."""

    parts: list[str] = field(default_factory=list)  # NAME=CODE
    values: list[_Value] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)  # calls that read files unseen, for error messages
    attributes: set[str] = field(default_factory=set)  # all attribute names in the code
    seen: set[tuple[str, str]] = field(default_factory=set)  # file and name
    trees: dict[Path, ast.Module] = field(default_factory=dict)

    def add_name(self, path: Path, module: str, name: str, values: Mapping[str, Any], *, used: bool = True) -> bool:
        """Add a top-level name of a file with its dependencies.

        Return whether the file binds the name; True for a name that was looked up before.
        """
        if (str(path), name) in self.seen:
            return True
        self.seen.add((str(path), name))
        is_bound = False
        for node in self._parse_tree(path).body:
            if name not in set(bound_names(node)):
                continue
            is_bound = True
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._follow_import(path, module, node, name)
                continue
            definition = self._strip_declaration(path, node, values)
            self.parts.append(f"{name}={ast.dump(definition)}")
            if is_computed(node) and name in values:
                self.values.append(_Value(values, str(path.parent), f"{path.name}:{name}", name, used))
            for held, is_used in iterate_held_values(node, values.get(name)):
                self.values += [_Value(held, str(path.parent), f"{path.name}:{name}.{held_name}", held_name, is_used) for held_name in held]
            if is_cached_reader(node, values.get(name)):
                self.reads.add(f"{name}, which caches its first result,")
            self.add_statement(path, module, definition, values, excluded=name)
        return is_bound or any(self._add_star_import(path, module, node, name) for node in self._parse_tree(path).body)

    def add_statement(self, path: Path, module: str, node: ast.AST, values: Mapping[str, Any], *, excluded: str) -> None:
        """Add the dependencies of a statement, except its own name ``excluded``."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute):
                self.attributes.add(inner.attr)
                self._note_reader(inner, values)
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and queries_file(inner):
                self.reads.add(f"{ast.unparse(inner.func.value)}.{inner.func.attr}")
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                for alias in inner.names:
                    self._follow_import(path, module, inner, _local_name(inner, alias))
        for used in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {excluded}):
            self.add_name(path, module, used, values)

    def add_function(self, function: Callable[..., Any]) -> None:
        """Add a function with its dependencies, and the project functions that wrap it; only its bytecode if it has no file."""
        *wrappers, function = list_layers(function)
        if (file := _find_file(function)) is None:
            self.parts.append(repr(function.__code__.co_code))
            return
        values = getattr(function, "__globals__", _module_values(function.__module__))
        if "<locals>" in function.__qualname__:
            self._add_nested_function(file, function, values)
        else:
            self.add_name(file, function.__module__, function.__qualname__.partition(".")[0], values)
        for wrapper in wrappers:
            if inspect.isfunction(wrapper) and not _is_installed(wrapper) and (source := _find_file(wrapper)) is not None:
                name = wrapper.__code__.co_qualname.partition(".")[0]
                self.add_name(source, wrapper.__globals__["__name__"], name, wrapper.__globals__)

    def _add_nested_function(self, path: Path, function: Callable[..., Any], values: Mapping[str, Any]) -> None:
        """Add a function that is defined inside another function, with decorators that are defined there and the function that it wraps."""
        node = self._strip_declaration(path, _read_definition(function), values)
        self.parts.append(f"{function.__name__}={ast.dump(node)}")
        self.add_statement(path, function.__module__, node, values, excluded=function.__name__)
        decorators = {n.id for each in getattr(node, "decorator_list", []) for n in ast.walk(each) if isinstance(n, ast.Name)}
        for local in ast.walk(self._parse_tree(path)):
            if isinstance(local, _DEFINITIONS) and (names := (decorators - set(values)) & set(bound_names(local))):
                self.parts.append(f"{min(names)}={ast.dump(local)}")
                self.add_statement(path, function.__module__, local, values, excluded=min(names))
        for wrapped in _find_wrapped_functions(function):
            self.add_function(wrapped)

    def _strip_declaration(self, path: Path, node: ast.stmt, values: Mapping[str, Any]) -> ast.stmt:
        """Return a function's definition without its docstring and the decorators of ``mlops_assets``; another statement unchanged."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            decorators = select_code_decorators(node, self._parse_tree(path), values)
            return ast.FunctionDef(node.name, node.args, body or [ast.Pass()], decorators, node.returns)
        return node

    def _parse_tree(self, path: Path) -> ast.Module:
        if path not in self.trees:
            self.trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        return self.trees[path]

    def _note_reader(self, node: ast.Attribute, values: Mapping[str, Any]) -> None:
        """Note an attribute such as ``pl.read_csv``, which opens files in native code and so triggers no audit hook."""
        library = getattr(values.get(node.value.id), "__name__", "") if isinstance(node.value, ast.Name) else ""
        if library.partition(".")[0] in _READERS and node.attr.startswith(("read_", "scan_")):
            self.reads.add(f"{library}.{node.attr}")

    def _add_star_import(self, path: Path, module: str, node: ast.stmt, name: str) -> bool:
        """Add a name from the project file of a star import; return False for another statement or if that file does not bind it."""
        if not (isinstance(node, ast.ImportFrom) and any(alias.name == _EVERYTHING for alias in node.names)):
            return False
        file, (absolute, values) = project_file(path, node.module or "", node.level), _imported_module(path, module, node)
        return file is not None and self.add_name(file, absolute, name, values)

    def _follow_import(self, path: Path, module: str, node: ast.Import | ast.ImportFrom, name: str) -> None:
        """Add what an import binds to a name: a name of a project file, or a whole module; skip installed packages."""
        alias = next(alias for alias in node.names if _local_name(node, alias) == name)
        if isinstance(node, ast.Import):
            if (file := project_file(path, alias.name, 0)) is not None:
                self._add_module(file, alias.name)
            return
        absolute, values = _imported_module(path, module, node)
        file = project_file(path, node.module or "", node.level)
        if file is not None and self.add_name(file, absolute, alias.name, values):
            return
        beneath = f"{node.module}.{alias.name}" if node.module else alias.name
        if (file := project_file(path, beneath, node.level)) is not None:
            self._add_module(file, f"{absolute}.{alias.name}")

    def _add_module(self, path: Path, module: str) -> None:
        """Add every name of a module that is imported as a whole."""
        names = {name for node in self._parse_tree(path).body for name in bound_names(node)}
        for name in sorted(names):
            self.add_name(path, module, name, _module_values(module), used=False)


def source_hash(function: Callable[..., Any]) -> str:
    """Return a hash of a function or class with all project code and values that it uses, directly or indirectly.

    Names are followed through the function's module and the other modules of the project, including modules of decorators. Comments,
    docstrings of functions, decorators of ``mlops_assets``, and code that the function does not use, do not change the hash. When a
    name's value is computed at import (from a file or an environment variable), the hash also covers the value. It does not cover
    installed packages, whose versions are recorded separately.

    Parameters
    ----------
    function
        A function that is defined in a file.
    """
    closure = _find_closure(function)
    values = [f"{value.label}:={text}" for value in closure.values if (text := _canonicalise_held_value(value))]
    digest = hashlib.sha256()
    for part in sorted({*closure.parts, *values}):
        digest.update(part.encode())
    return digest.hexdigest()


def find_unrecorded(function: Callable[..., Any]) -> list[str]:
    """Return the inputs that no fingerprint covers: used values without canonical text, then files read by libraries or cached functions.

    Parameters
    ----------
    function
        A function that is defined in a file.
    """
    closure = _find_closure(function)
    used = [value for value in closure.values if value.used or value.name in closure.attributes]
    values = {f"{value.label} ({type(value.module[value.name]).__name__})" for value in used if _canonicalise_held_value(value) is None}
    return sorted(values) + [f"the files that {name} reads" for name in sorted(closure.reads)]


def _canonicalise_held_value(value: _Value) -> str | None:
    """Return the canonical text of a value; None if the value has none."""
    try:
        return canonicalise_value(value.module[value.name], value.folder)
    except UnrecordableError:
        return None


@lru_cache(maxsize=1024)
def _find_closure(function: Callable[..., Any]) -> _Closure:
    """Return all project code that a function uses; for a function without a file, only its bytecode.

    The result is cached, because loaded code does not change when its files do.
    """
    closure = _Closure()
    closure.add_function(function)
    return closure


def _find_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that defines a function or class; None if there is no file, as in an interactive session."""
    file = inspect.getsourcefile(function)
    return Path(file) if file is not None and Path(file).is_file() else None


def _find_wrapped_functions(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield the decorated functions in a wrapper's closure: a wrapper made without :func:`functools.wraps` shows them only there."""
    for cell in getattr(function, "__closure__", None) or ():
        held = getattr(cell, "cell_contents", None)  # an empty cell has none
        if inspect.isfunction(held) and _find_file(held) is not None:
            yield from [held] if getattr(_read_definition(held), "decorator_list", []) else _find_wrapped_functions(held)


def _read_definition(function: Callable[..., Any]) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]


def _is_installed(function: Callable[..., Any]) -> bool:
    """Return True for a function of Python, of an installed package or of ``mlops_assets``."""
    package = function.__globals__.get("__name__", "").partition(".")[0]
    return package in {*sys.stdlib_module_names, "mlops_assets"} or bool(_INSTALLED & set(Path(function.__code__.co_filename).parts))


def _imported_module(path: Path, module: str, node: ast.ImportFrom) -> tuple[str, Mapping[str, Any]]:
    """Return the absolute name and the attributes of an imported module; no attributes when it is not loaded."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        absolute = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
    except ImportError:
        absolute = node.module or ""
    return absolute, _module_values(absolute)


def _module_values(module: str) -> Mapping[str, Any]:
    return getattr(sys.modules.get(module), "__dict__", {})


def _local_name(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    return alias.asname or (alias.name.split(".")[0] if isinstance(node, ast.Import) else alias.name)


def list_layers(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return a function and the functions that it wraps, the innermost last.

    Parameters
    ----------
    function
        A function, which decorators may have replaced with the help of :func:`functools.wraps`.
    """
    layers = [function]
    while (wrapped := getattr(layers[-1], "__wrapped__", None)) is not None:
        layers.append(wrapped)
    return layers


def bound_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, also inside loops, conditions, ``with`` and ``try``."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (_local_name(node, alias) for alias in node.names)
    else:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.stmt):
                yield from bound_names(inner)
            elif isinstance(inner, ast.ExceptHandler):
                yield from (name for handler_statement in inner.body for name in bound_names(handler_statement))
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def project_file(path: Path, module: str, level: int) -> Path | None:
    """Return the file of a module that a project file imports; None for a package or module outside of the project."""
    if not level and module.partition(".")[0] == "mlops_assets":
        return None
    root = path.parent
    for _ in range(max(0, level - 1)):
        root = root.parent
    parts = module.split(".") if module else []
    candidates = [root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")] if parts else [root / "__init__.py"]
    source = next((file for file in candidates if file.exists()), None)
    if source is not None or level or not parts:
        return source
    return _find_importable(module)


def _find_importable(module: str) -> Path | None:
    """Return the file that Python would import as a module; None for the standard library and installed packages."""
    package = module.split(".", maxsplit=1)[0]
    if package in sys.stdlib_module_names:
        return None
    try:
        # To find a submodule, Python imports its package, which may take a second: installed ones are recognised before.
        spec = importlib.util.find_spec(package)
        if spec is None or all(_INSTALLED & set(Path(place).parts) for place in _list_locations(spec)):
            return None
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    return None if origin is None or _INSTALLED & set(origin.parts) else origin


def _list_locations(spec: ModuleSpec) -> list[str]:
    """Return the folders of a package, or the file of a module."""
    return [*(spec.submodule_search_locations or [spec.origin or ""])]
