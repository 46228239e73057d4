"""Load a stored source in this process, isolated from the project: two versions of one module can be loaded at once."""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_LOADING = threading.Lock()


def load_isolated(stored: Mapping[str, Any], name: str) -> Callable[..., Any]:
    """Import the function of a stored source in a separate package, so that it shares no module with the project.

    The code of the source runs with the rights of this process. Loading a source again under the same name returns the same function.

    Parameters
    ----------
    stored
        The result of :func:`~mlops_assets.compute.user_code.source_slice.extract_source`.
    name
        The name of the package, which identifies the source; an identifier.
    """
    with _LOADING:
        if name not in sys.modules:
            sys.meta_path.append(_StoredModules(name, stored["modules"]))
        function: Callable[..., Any] = getattr(importlib.import_module(f"{name}.{stored['entry']}"), stored["function"])
    return function


class _StoredModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads the modules of one stored source.

    Parameters
    ----------
    root
        The package that contains the modules.
    texts
        Module → text.
    """

    def __init__(self, root: str, texts: Mapping[str, str]) -> None:
        self._root = root
        self._texts = {f"{root}.{module}": text for module, text in texts.items()}
        parents = {full.rpartition(".")[0] for full in self._texts}
        self._packages = {".".join(parent.split(".")[:depth]) for parent in parents for depth in range(1, parent.count(".") + 2)}
        self._tops = {module.split(".")[0] for module in texts}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module of this source; None for any other module."""
        del path, target
        if fullname not in self._texts and fullname not in self._packages:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=fullname in self._packages)

    def exec_module(self, module: ModuleType) -> None:
        """Run the text of a module; its imports of project modules load the modules of this source."""
        tree = _ImportRewriter(self._root, self._tops).visit(ast.parse(self._texts.get(module.__name__, "")))
        exec(compile(ast.fix_missing_locations(tree), f"<stored {module.__name__}>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  (a stored source)


class _ImportRewriter(ast.NodeTransformer):
    """Moves absolute imports of the project's modules below a package.

    Parameters
    ----------
    root
        The package.
    tops
        The top-level modules and packages of the project.
    """

    def __init__(self, root: str, tops: set[str]) -> None:
        self._root, self._tops = root, tops

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        """Return ``from module import name`` as ``from root.module import name``."""
        if not node.level and node.module and node.module.split(".")[0] in self._tops:
            node.module = f"{self._root}.{node.module}"
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        """Return statements that import ``root.a.b`` in place of ``a.b`` and bind the name ``a``."""
        statements: list[ast.stmt] = []
        for alias in node.names:
            top = alias.name.split(".")[0]
            if top not in self._tops:
                statements.append(ast.Import([alias]))
            elif alias.asname:
                statements.append(ast.Import([ast.alias(f"{self._root}.{alias.name}", alias.asname)]))
            else:
                statements.append(ast.Import([ast.alias(f"{self._root}.{alias.name}", "_")]))
                statements.append(ast.ImportFrom(self._root, [ast.alias(top, None)], 0))
        return statements
