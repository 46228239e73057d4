"""The public names: few, documented, and enough for every guide."""

import inspect

import pytest
from numpydoc.docscrape import FunctionDoc

import mlops_assets as ml

MAX_NAMES = 45
MODULES = {name: getattr(ml, name) for name in ml.__all__ if inspect.ismodule(getattr(ml, name))}
PUBLIC = {f"ml.{name}": getattr(ml, name) for name in ml.__all__ if name not in MODULES} | {
    f"ml.{name}.{member}": getattr(module, member) for name, module in MODULES.items() for member in module.__all__
}
# Made by decorators, methods and calls, which document the arguments.
MADE = {f"ml.types.{name}" for name in ml.types.__all__} - {"ml.types.Evaluation", "ml.types.SliceMetrics"}


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def test_the_public_names_are_few_sorted_and_there() -> None:
    assert ml.__all__ == sorted(ml.__all__)
    assert len(ml.__all__) <= MAX_NAMES
    for module in MODULES.values():
        assert module.__all__ == sorted(module.__all__)
    assert all(value is not None for value in PUBLIC.values())


def test_every_error_is_public() -> None:
    assert set(ml.errors.__all__) == {name for name, value in vars(ml.errors).items() if _is_error(value)}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_docstrings_name_every_parameter(name: str) -> None:
    thing = PUBLIC[name]
    text = inspect.getdoc(thing)
    assert text
    documented = {name.strip() for p in FunctionDoc(thing, doc=text)["Parameters"] for name in p.name.replace("*", "").split(",")}
    if _is_error(thing) or name in MADE:
        return
    wanted = {p for p in inspect.signature(thing).parameters if p not in {"options", "function", "mlops"}}
    assert wanted - documented == set()
