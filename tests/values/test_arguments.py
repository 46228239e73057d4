"""A misspelt, missing or surplus argument of anything public is an error that says what to write."""

import inspect

import polars as pl
import pytest

import mlops_assets as ml
import mlops_assets.values.upkeep
from mlops_assets.errors import DefinitionError, MlopsError


def _public_callables():
    """Yield every public callable with its name, methods that construct values included."""
    for name in ml.__all__:
        found = getattr(ml, name)
        yield name, found
        for method, function in vars(found).items() if inspect.isclass(found) else ():
            if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, (classmethod, staticmethod))):
                yield f"{name}.{method}", getattr(found, method)
    yield "Upkeep", mlops_assets.values.upkeep.Upkeep
    yield "DbtModel", mlops_assets.values.features.DbtModel


PUBLIC = dict(_public_callables())
# Not told apart from an error within: exceptions are raised, not declared; these methods are called by the package itself.
RAISED = {name for name, found in PUBLIC.items() if inspect.isclass(found) and issubclass(found, MlopsError)}


def _arguments(function):
    """Return the keyword arguments of a callable, those that pass through to Dagster included."""
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"]
    return named + (["owners"] if any(p.kind is p.VAR_KEYWORD for p in parameters) else [])


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_no_public_callable_drops_an_unknown_keyword(name):
    with pytest.raises((DefinitionError, TypeError), match="unknown_to_all"):
        PUBLIC[name](unknown_to_all=1)


def _declares(name):
    constructs = "." not in name or name in {"DbtProject.model", "FeatureView.at", "Platform.at", "Platform.from_env"}
    return constructs and name not in RAISED


@pytest.mark.parametrize("name", sorted(filter(_declares, PUBLIC)))
def test_a_misspelt_argument_of_what_declares_or_acts_names_the_nearest_one(name):
    for argument in _arguments(PUBLIC[name]):
        with pytest.raises(DefinitionError, match=f"has no argument '{argument}_'(.|\n)*did you mean '{argument}'"):
            PUBLIC[name](**{f"{argument}_": 1})


def test_every_method_that_returns_a_value_is_among_those_that_name_the_nearest_argument():
    values = {name for name in PUBLIC if inspect.isclass(PUBLIC[name])}
    returning = {
        name
        for name, function in PUBLIC.items()
        if "." in name and name.split(".")[0] not in RAISED and {"DbtModel", *values} & {str(inspect.signature(function).return_annotation)}
    }
    assert returning
    assert all(_declares(name) for name in returning)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ml.model(training_set=None, metrics=["roc_auc"], gate=[]), "ml.model has no argument 'gate'\nHint: did you mean 'gates'?"),
        (lambda: ml.model(training_set=None, metrics=["roc_auc"], aproval=True), "did you mean 'approval'?"),
        (lambda: ml.dataset(keys="id"), "ml.dataset has no argument 'keys'\nHint: did you mean 'key'?"),
        (lambda: ml.Service("api", model=None, worker=9), "ml.Service has no argument 'worker'\nHint: did you mean 'workers'?"),
        (lambda: ml.Monitor("watch", of=None, on_fail=None), "ml.Monitor has no argument 'on_fail'\nHint: did you mean 'on_failure'?"),
        (lambda: ml.dataset(key="id", group_name="x"), "ml.dataset has no argument 'group_name'"),
        (lambda: ml.Service("api"), "ml.Service lacks 'model'\nHint: give model=…"),
        (lambda: ml.Service("api", None), "ml.Service takes 1 argument by position, 2 were given\nHint: give the others by name: model=…"),
        (ml.Gate, "ml.Gate lacks 'metric'"),
        (lambda: ml.Gate("roc_auc", metric="roc_auc"), "multiple values for argument 'metric'"),
        (lambda: ml.DbtProject("dbt").model("x", partition=None), "ml.DbtProject.model has no argument 'partition'"),
    ],
)
def test_the_error_says_what_to_write(call, message):
    with pytest.raises(DefinitionError) as error:
        call()
    assert message in str(error.value)


def test_a_decorator_that_needs_arguments_says_so_when_it_stands_bare():
    def clf(train: ml.Split) -> None: ...

    with pytest.raises(
        DefinitionError, match=r"@ml.model stands above 'clf' without its arguments\nHint: write @ml.model\(training_set=…, metrics=…\)"
    ):
        ml.model(clf)


def test_a_type_error_within_a_callable_stays_what_it_is():
    with pytest.raises(TypeError, match="not supported"):
        ml.Range("a", 2)


def test_signatures_stay_readable():
    assert "on_failure" in inspect.signature(ml.Monitor).parameters
    assert "quality" in inspect.signature(ml.feature_view).parameters


def test_a_computed_view_keeps_its_quality_and_freshness():
    quality = ml.Quality(nulls={"flights": 0.5})

    @ml.feature_view(entity=ml.Entity("carrier"), event_timestamp="day", features={"flights": int}, quality=quality, freshness="0 4 * * *")
    def carrier_size(flights: pl.DataFrame) -> pl.DataFrame: ...

    assert (carrier_size.quality, carrier_size.freshness) == (quality, "0 4 * * *")
