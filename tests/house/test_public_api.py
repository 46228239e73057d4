"""The public names: few, documented, and enough for every guide."""

import doctest
import inspect
import io
from pathlib import Path

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


def _runs(value: object) -> bool:
    """Return whether a public name needs an example: a call or a declaration of a user."""
    return not inspect.isclass(value) or value in {getattr(ml, name) for name in ml.__all__ if name not in MODULES}


def _returns_a_value(value: object) -> bool:
    return not inspect.isclass(value) and inspect.signature(value).return_annotation not in ("None", None)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_docstrings_have_types_siblings_returns_and_an_example(name: str) -> None:
    value = PUBLIC[name]
    sections = FunctionDoc(value, doc=inspect.getdoc(value))
    assert sections["See Also"], "name a sibling"
    if _returns_a_value(value):
        assert sections["Returns"] or sections["Yields"]
        assert all(returned.type for returned in (*sections["Returns"], *sections["Yields"]))
    if _runs(value):
        assert ">>> " in "\n".join(sections["Examples"])


@pytest.mark.parametrize("name", sorted(name for name, value in PUBLIC.items() if ">>> " in (inspect.getdoc(value) or "")))
def test_the_example_of_a_public_name_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(PUBLIC[name]), {"__name__": "__main__"}, name, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE)
    report = io.StringIO()
    runner.run(examples, out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


UNEVEN = {"minimum", "maximum", "least", "most", "greatest", "longest", "largest", "smallest"}
_RULE = "the name of a rule, stored in check names and in the definitions that evidence counts for"
RULES = {"at_least": _RULE, "at_most": _RULE}
LIMITS = {
    "max_age",
    "max_attempts",
    "max_every",
    "max_bytes",
    "max_error_rate",
    "max_future",
    "max_rows",
    "max_scored",
    "max_tokens",
    "min_answers",
    "min_coverage",
    "min_kappa",
    "min_labels",
    "min_psi",
    "min_requests",
    "min_rows",
    "min_severity",
}


def _parameters() -> set[str]:
    """Return the parameters of every public callable, methods included."""
    members = [
        getattr(value, name) for value in PUBLIC.values() if inspect.isclass(value) for name in vars(value) if not name.startswith("_")
    ]
    return {parameter for value in (*PUBLIC.values(), *filter(callable, members)) for parameter in inspect.signature(value).parameters}


def test_limits_are_named_min_and_max() -> None:
    found = _parameters()
    assert {name for name in found if set(name.split("_")) & UNEVEN} == set(RULES)
    assert {name for name in found if name.startswith(("min_", "max_"))} == LIMITS
