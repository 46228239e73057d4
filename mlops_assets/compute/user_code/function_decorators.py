"""Find the decorators that change what a function computes: all except the declarations of ``mlops_assets``."""

from __future__ import annotations

import ast
import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKAGE = "mlops_assets"


def select_code_decorators(node: ast.stmt, tree: ast.Module, values: Mapping[str, Any]) -> list[ast.expr]:
    """Return the decorators of a definition that are not part of ``mlops_assets``, in their order; none for another statement.

    Parameters
    ----------
    node
        The statement.
    tree
        The file of the statement.
    values
        The attributes of its module; may be empty for a module that is not loaded.
    """
    decorators = getattr(node, "decorator_list", [])
    imported = set(_imported_names(tree)) if decorators else set()
    return [each for each in decorators if not _is_declaration(each, imported, tree, values)]


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a file imports from ``mlops_assets``, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == _PACKAGE:
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.asname or _PACKAGE for alias in node.names if alias.name.partition(".")[0] == _PACKAGE)


def _is_declaration(decorator: ast.expr, imported: set[str], tree: ast.Module, values: Mapping[str, Any]) -> bool:
    """Return True for a decorator of ``mlops_assets``: imported, re-exported by the project, or assigned to another name."""
    expression, attributes = decorator, list[str]()
    while isinstance(expression, (ast.Attribute, ast.Call)):
        if isinstance(expression, ast.Attribute):
            attributes.insert(0, expression.attr)
            expression = expression.value
        else:
            attributes.clear()  # attributes of the result of a call: the called function decides
            expression = expression.func
    if not isinstance(expression, ast.Name):
        return False
    name = expression.id
    if name in imported or name in values:
        return name in imported or _belongs_to_package(_resolve_attributes(values[name], attributes))
    assigned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets)]
    return any(_is_declaration(value, imported, tree, values) for value in assigned if name not in ast.unparse(value))


def _resolve_attributes(value: Any, attributes: list[str]) -> Any:  # noqa: ANN401  (what a name is bound to)
    """Return the value of an attribute path through modules, up to the first value that is not a module; lazy modules stay unimported."""
    for name in attributes:
        if not isinstance(value, ModuleType) or _belongs_to_package(value):
            break
        value = vars(value).get(name)
    while isinstance(value, functools.partial):
        value = value.func
    return value


def _belongs_to_package(value: object) -> bool:
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(module).partition(".")[0] == _PACKAGE
