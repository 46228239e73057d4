"""Every public function of the room documents its parameters, and its example runs."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
from numpydoc.docscrape import FunctionDoc

from mlops_assets.compute import llm_evaluation

MODULES = [importlib.import_module(f"{llm_evaluation.__name__}.{module.name}") for module in pkgutil.iter_modules(llm_evaluation.__path__)]
PUBLIC = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_docstring_names_every_parameter(name: str) -> None:
    value = PUBLIC[name]
    sections = FunctionDoc(value, doc=inspect.getdoc(value))
    documented = {name.strip() for parameter in sections["Parameters"] for name in parameter.name.split(",")}
    assert documented == set(inspect.signature(value).parameters)
    assert all(parameter.type for parameter in sections["Parameters"])
    if inspect.isfunction(value):
        assert ">>> " in value.__doc__
        assert sections["Returns"] or value.__annotations__["return"] == "None"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_examples_run(module) -> None:
    found = doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted > 0
    assert found.failed == 0
