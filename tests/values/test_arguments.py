"""A misspelt, missing or surplus argument of anything public is an error that says what to write."""

import inspect
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError, MlopsError
from mlops_assets.values.argument_types import list_type_checks
from mlops_assets.values.arguments import _ACTIONS, _CLASSES, check_arguments

NOW = datetime(2024, 1, 1, tzinfo=UTC)
MADE = {
    "ActiveRun",
    "Costs",
    "GateLike",
    "Intervals",
    "LoadedModel",
    "PredictionTimes",
    "PushResult",
}  # the package makes them, a user never does


def _public_callables():
    """Yield every public callable with its name, methods that construct values included."""
    members = [(ml, name) for name in ml.__all__] + [
        (module, name) for module in (ml.errors, ml.llm, ml.monitoring, ml.runs, ml.types) for name in module.__all__
    ]
    for module, name in members:
        found = getattr(module, name)
        if inspect.ismodule(found) or name in MADE:  # modules are not called
            continue
        yield name, found
        for method, function in vars(found).items() if inspect.isclass(found) else ():
            if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, (classmethod, staticmethod))):
                yield f"{name}.{method}", getattr(found, method)


PUBLIC = dict(_public_callables())
VALUES = [type(name, (), {})() for name in sorted(_CLASSES)]  # of each class by name
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
    constructs = "." not in name or name in {
        "DbtProject.model",
        "FeatureView.at",
        "FeatureView.renamed",
        "Gate.artifact_size",
        "Gate.latency",
        "Platform.at",
        "Platform.from_env",
    }
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
    returning -= {name for name in returning if name.endswith(".judge")}  # the package calls it
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


@ml.dataset
def bare() -> pl.DataFrame:
    """A table without a key."""
    return pl.DataFrame({"id": [1]})


def test_a_decorator_that_needs_no_argument_stands_with_or_without_parentheses():
    assert (bare.key, bare().height, bare.table) == ("dataset/bare", 1, ml.dataset()(bare.function.function).table)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ml.build_definitions(bare),
            "ml.build_definitions was given a Dataset as 'items', which takes a list\nHint: put it into a list: ml.build_definitions([…])",
        ),
        (
            lambda: ml.build_definitions(bare, bare),
            "ml.build_definitions takes one list, but 2 arguments were given\nHint: put them into it: ml.build_definitions([…, …])",
        ),
        (
            lambda: ml.TimeWindow("2024-01-01", "2024-01-02"),
            "ml.TimeWindow was given '2024-01-01' as 'start', which takes a datetime\nHint: give an aware datetime, e.g. datetime(2024, 1, 1, tzinfo=UTC)",
        ),
        (lambda: ml.TimeWindow(datetime(2024, 1, 1), datetime(2024, 1, 2)), "have no time zone\nHint: give aware datetimes"),
        (lambda: ml.TimeWindow(NOW, NOW), "not after its start"),
        (
            lambda: ml.Entity(["a", "b"]),
            "ml.Entity was given ['a', 'b'] as 'name', which takes a text\nHint: name the entity and list its columns: ml.Entity('a_b', join_keys=['a', 'b'])",
        ),
        (
            lambda: ml.gate(bare.function.function),
            "ml.gate was given the function 'bare' as 'model', which takes a Model\nHint: write @ml.gate(…)",
        ),
        (lambda: ml.Service("api", model="clf"), "'model', which takes a Model\nHint: give a Model itself, not its name"),
        (lambda: ml.GroupSplit(["shop"]), "'column', which takes a text\nHint: give one text as column="),
        (lambda: ml.TimeSplit(holdout=14), "'holdout', which takes a timedelta\nHint: give a timedelta, e.g. timedelta(days=1)"),
        (lambda: ml.Gate("roc_auc", at_least="0.7"), "was given '0.7' as 'at_least', which takes a number"),
        (
            lambda: ml.training_set(label="y", split=ml.GroupSplit),
            "the class GroupSplit as 'split', which takes a TimeSplit or a GroupSplit\nHint: make one of it",
        ),
        (lambda: ml.dataset(partitions="daily"), "'daily' as 'partitions', which takes a PartitionsDefinition"),
        (lambda: ml.Quality(nulls="x"), "'x' as 'nulls', which takes a dict"),
        (ml.on_demand_features, "@ml.on_demand_features() lacks the function\nHint: write @ml.on_demand_features without parentheses"),
    ],
)
def test_a_confused_argument_says_what_to_write(call, message):
    with pytest.raises(DefinitionError) as error:
        call()
    assert message in str(error.value)


class Confused:
    """Nothing that any argument takes."""


def _checked_parameters(name):
    """Return the parameters whose type can be checked, of a public callable."""
    target = PUBLIC[name].__init__ if inspect.isclass(PUBLIC[name]) else PUBLIC[name]
    return set(list_type_checks(inspect.signature(target), _CLASSES)) - {"self"}


@pytest.mark.parametrize("name", sorted(n for n in PUBLIC if _declares(n) and not n.startswith(_ACTIONS)))
def test_every_argument_of_what_declares_is_refused_when_it_is_of_no_type_that_it_takes(name):
    signature = inspect.signature(PUBLIC[name])
    required = [n for n, p in signature.parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    for parameter in _checked_parameters(name):
        if signature.parameters[parameter].kind is inspect.Parameter.POSITIONAL_ONLY:
            continue
        given = {n: _sound(signature.parameters[n]) for n in required} | {parameter: Confused()}
        with pytest.raises(DefinitionError, match=f"a Confused as '{parameter}', which takes "):
            PUBLIC[name](**given)


def _sound(parameter):
    """Return a value that passes the check of a parameter's type."""
    candidates = (*VALUES, None, "x", 1, True, (), {}, NOW, timedelta(1), Confused)
    checks = list_type_checks(inspect.Signature([parameter]), _CLASSES).get(parameter.name, [])
    return next(value for value in candidates if not checks or any(check(value) for _, check in checks))


def test_a_decorator_that_needs_arguments_says_so_when_it_stands_bare():
    def clf(train: ml.Split) -> None: ...

    with pytest.raises(
        DefinitionError, match=r"@ml.model stands above 'clf' without its arguments\nHint: write @ml.model\(training_set=…, metrics=…\)"
    ):
        ml.model(clf)


def test_a_type_error_within_a_callable_stays_a_type_error():
    @check_arguments
    def compare(value: object) -> bool:
        return value < 2

    with pytest.raises(TypeError, match="not supported"):
        compare("a")


def test_signatures_stay_readable():
    assert "on_failure" in inspect.signature(ml.Monitor).parameters
    assert "quality" in inspect.signature(ml.feature_view).parameters


def test_a_computed_view_keeps_its_quality_and_freshness():
    quality = ml.Quality(nulls={"flights": 0.5})

    @ml.feature_view(entity=ml.Entity("carrier"), event_timestamp="day", features={"flights": int}, quality=quality, freshness="0 4 * * *")
    def carrier_size(flights: pl.DataFrame) -> pl.DataFrame: ...

    assert (carrier_size.quality, carrier_size.freshness) == (quality, "0 4 * * *")


def test_a_type_that_passed_once_is_not_taken_for_another_type_or_parameter():
    @check_arguments
    def measure(name: str, count: int | None = None):
        return name, count

    for _ in range(2):
        assert measure("a", count=1) == measure("a", 1) == ("a", 1)
        with pytest.raises(DefinitionError, match="'name', which takes a text"):
            measure(1, 1)
        with pytest.raises(DefinitionError, match="'count', which takes a whole number"):
            measure("a", "b")
        with pytest.raises(DefinitionError, match="takes 2 arguments by position, 3 were given"):
            measure("a", 1, 1)
        with pytest.raises(DefinitionError, match="lacks 'name'"):
            measure(count=1)
