"""What cannot work is refused before Dagster sees it; each message names both ends and ends in a hint."""

import sys
import tempfile
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pandera.polars as pa
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.validate import check_project
from mlops_assets.orchestrate.core.project import Project, row_key
from mlops_assets.orchestrate.core.steps import asset_key

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
ELSEWHERE = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01", timezone="America/New_York")


class Row(pa.DataFrameModel):
    id: str
    at: pl.Datetime
    seen: pl.Datetime
    shop: str
    x: float
    y: int
    late: float


def dataset(name="rows", **more):
    values = {"schema": Row, "key": "id", "event_timestamp": "at", "known_at": {"late": "seen", "y": "seen"}} | more

    def function() -> pl.DataFrame: ...

    function.__name__ = name
    return ml.dataset(**values)(function)


def view(source, **more):
    values = {"entity": ml.Entity("shop"), "event_timestamp": "at", "features": {"x": float}, "name": "shop_x"} | more
    return ml.FeatureView(source=source, **values)


def training_set(upstream="rows", name="examples", **more):
    values = {"columns": ["x"], "label": "y", "label_known_at": "seen", "event_timestamp": "at", "split": ml.GroupSplit("shop")} | more
    scope: dict = {"pl": pl}
    exec(f"def {name}({upstream}: pl.DataFrame) -> pl.DataFrame: ...", scope)
    return ml.training_set(**values)(scope[name])


def model(examples, **more):
    @ml.model(training_set=examples, **({"metrics": ["roc_auc"], "gates": [ml.Gate("roc_auc", at_least=0.5)]} | more))
    def clf(train: ml.Split) -> LogisticRegression: ...

    return clf


def on_demand(source: str, name: str = "clock"):
    module = types.ModuleType("on_demand_under_test")
    sys.modules[module.__name__] = module
    path = Path(tempfile.mkdtemp()) / "on_demand_under_test.py"
    path.write_text(f"import numpy as np\nimport mlops_assets as ml\n{source}")
    module.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return getattr(module, name)


ROWS = dataset()
EXAMPLES = training_set()
CLF = model(EXAMPLES)


@dg.asset
def number() -> int:
    return 1


@dg.asset
def rows_by_hand() -> pd.DataFrame: ...


def over(upstream: str, **more):
    scope: dict = {"pl": pl}
    exec(f"def derived({upstream}: pl.DataFrame) -> pl.DataFrame: ...", scope)
    return ml.dataset(**more)(scope["derived"])


def gate_of(some_model):
    @ml.gate(some_model)
    def sound(candidate: ml.Candidate) -> bool: ...

    return sound


CASES = {
    "a misspelt upstream": (lambda: [ROWS, training_set("row")], ["training_set/examples", "'row'", "did you mean 'rows'"]),
    "an upstream that nobody makes": (lambda: [over("nothing")], ["dataset/derived", "'nothing'", "there are derived"]),
    "a model as a table": (lambda: [ROWS, EXAMPLES, CLF, over("clf")], ["dataset/derived", "model/clf", "is not a table"]),
    "a plain asset that returns no frame": (lambda: [number, over("number")], ["dataset/derived", "'number'", "returns int"]),
    "a gate on a model that is not listed": (lambda: [ROWS, EXAMPLES, gate_of(CLF)], ["gate 'sound'", "model/clf", "not in the project"]),
    "a model without its training set": (lambda: [ROWS, CLF], ["model/clf", "training_set/examples"]),
    "a training set without its view": (
        lambda: [ROWS, training_set(features=[view(ROWS, features={"x": float})], columns=[])],
        ["training_set/examples", "features/shop_x"],
    ),
    "a view without its dataset": (lambda: [view(ROWS)], ["features/shop_x", "dataset/rows"]),
    "two services of a model with different keys": (
        lambda: [ROWS, EXAMPLES, CLF, ml.Service("one", model=CLF, key="id"), ml.Service("two", model=CLF, key=("id", "shop"))],
        ["service/one", "service/two", "model/clf", "key=(id) and key=(id, shop)"],
    ),
    "a prediction without its model": (lambda: [ROWS, ml.BatchPrediction("p", model=CLF, dataset=ROWS)], ["predictions/p", "model/clf"]),
    "a view of a dbt project that is not listed": (
        lambda: [
            ml.FeatureView(source=ml.DbtProject("nowhere").model("m"), entity=ml.Entity("k"), event_timestamp="t", features={"f": float})
        ],
        ["features/m", "dbt project nowhere"],
    ),
    "two of one name": (lambda: [ROWS, dataset()], ["two items", "dataset/rows"]),
    "a plain asset with our key": (lambda: [ROWS, dg.AssetSpec(["dataset", "rows"])], ["two items", "dataset/rows"]),
    "two gates of one name": (lambda: [ROWS, EXAMPLES, CLF, _named_like_a_gate()], ["roc_auc_at_least", "model/clf"]),
    "a view whose source lacks the column": (lambda: [ROWS, view(ROWS, features={"z": float})], ["features/shop_x", "'z'", "dataset/rows"]),
    "a view whose source lacks the key": (
        lambda: [ROWS, view(ROWS, entity=ml.Entity("shops"))],
        ["features/shop_x", "'shops'", "did you mean 'shop'"],
    ),
    "a feature that is known later": (
        lambda: [ROWS, view(ROWS, features={"late": float})],
        ["'late'", "features/shop_x", "dataset/rows", "created_timestamp='seen'"],
    ),
    "a view with another time than its partitioned source": (
        lambda: [(r := dataset(partitions=DAILY)), view(r, event_timestamp="seen")],
        ["features/shop_x", "'seen'", "dataset/rows", "'at'"],
    ),
    "a label among the columns": (lambda: [ROWS, training_set(columns=["x", "y"])], ["training_set/examples", "'y'"]),
    "a label that is a feature": (
        lambda: [ROWS, (v := view(ROWS, features={"y": float}, created_timestamp="seen")), training_set(features=[v])],
        ["'y'", "training_set/examples", "features/shop_x"],
    ),
    "a label that an on-demand feature reads": (
        lambda: [ROWS, training_set(features=[on_demand("@ml.on_demand_features\ndef clock(y): return {'z': y}")])],
        ["'clock'", "'y'", "training_set/examples"],
    ),
    "two inputs of one name": (
        lambda: [ROWS, (v := view(ROWS)), training_set(features=[v])],
        ["training_set/examples", "two inputs named 'x'"],
    ),
    "no input at all": (lambda: [ROWS, training_set(columns=[])], ["training_set/examples", "no input"]),
    "a column that is known later": (
        lambda: [ROWS, training_set(columns=["late"])],
        ["training_set/examples", "'late'", "columns=", "dataset/rows", "'seen'"],
    ),
    "an on-demand feature of a column that is known later": (
        lambda: [ROWS, training_set(features=[on_demand("@ml.on_demand_features\ndef clock(late): return {'z': late}")])],
        ["training_set/examples", "'late'", "'clock'", "dataset/rows"],
    ),
    "a label that is known later, silently": (
        lambda: [ROWS, training_set(label_known_at=None)],
        ["label 'y'", "training_set/examples", "dataset/rows", "label_known_at='seen'"],
    ),
    "days of different zones": (
        lambda: [dataset(partitions=DAILY), over("rows", partitions=ELSEWHERE, event_timestamp="at")],
        ["dataset/derived", "dataset/rows", "timezone="],
    ),
    "hours that read days": (
        lambda: [
            dataset(partitions=DAILY),
            over("rows", partitions=dg.HourlyPartitionsDefinition("2024-01-01-00:00"), event_timestamp="at"),
        ],
        ["dataset/derived", "dataset/rows", "after its own end"],
    ),
    "a mapping of a table that is not read": (
        lambda: [
            dataset(partitions=DAILY),
            over("rows", partitions=DAILY, event_timestamp="at", partition_mappings={"row": dg.AllPartitionMapping()}),
        ],
        ["dataset/derived", "'row'", "did you mean 'rows'"],
    ),
    "a mapping that cannot map": (
        lambda: [
            dataset(partitions=DAILY),
            over(
                "rows", partitions=DAILY, event_timestamp="at", partition_mappings={"rows": dg.MultiToSingleDimensionPartitionMapping("x")}
            ),
        ],
        ["dataset/derived", "dataset/rows"],
    ),
    "a gate on a slice that is not measured": (
        lambda: [ROWS, EXAMPLES, model(EXAMPLES, gates=[ml.Gate("roc_auc", at_least=0.5, slice=("shop", "a"))])],
        ["model/clf", "'shop'", "slices="],
    ),
    "a prediction for rows without a column": (
        lambda: [
            ROWS,
            EXAMPLES,
            CLF,
            (other := dataset("others", schema=_narrow(), known_at={})),
            ml.BatchPrediction("p", model=CLF, dataset=other),
        ],
        ["predictions/p", "'x'", "dataset/others"],
    ),
    "a prediction from a column known later": (
        lambda: [
            ROWS,
            EXAMPLES,
            CLF,
            (other := dataset("others", known_at={"x": "seen"})),
            ml.BatchPrediction("p", model=CLF, dataset=other),
        ],
        ["predictions/p", "'x'", "dataset/others", "training_set/examples"],
    ),
    "an on-demand module with more than numpy": (
        lambda: [ROWS, training_set(features=[on_demand("import pandas\n@ml.on_demand_features\ndef clock(x): return {'z': x}")])],
        ["'clock'", "training_set/examples", "pandas"],
    ),
    "something that is no asset": (lambda: [ROWS, len], ["'len'", "decorator"]),
}


def _named_like_a_gate():
    @ml.gate(CLF)
    def roc_auc_at_least(candidate: ml.Candidate) -> bool: ...

    return roc_auc_at_least


def _narrow():
    class Narrow(pa.DataFrameModel):
        id: str
        at: pl.Datetime
        seen: pl.Datetime

    return Narrow


@pytest.mark.parametrize("name", CASES)
def test_the_project_is_refused(name, tmp_path) -> None:
    items, words = CASES[name]
    with pytest.raises(DefinitionError) as caught:
        ml.build_definitions(items(), platform=ml.Platform.at(tmp_path))
    text = str(caught.value)
    assert [word for word in words if word not in text] == []
    assert "\nHint: " in text
    assert not text.rstrip().endswith("Hint:")


@pytest.mark.parametrize("kind", [dg.DailyPartitionsDefinition, dg.HourlyPartitionsDefinition, dg.MonthlyPartitionsDefinition])
def test_partitions_may_begin_in_the_future(kind, tmp_path) -> None:
    tomorrow = kind(start_date=datetime.now(UTC).replace(minute=0, second=0, microsecond=0, tzinfo=None) + timedelta(days=1))
    late = dataset("late", partitions=tomorrow)
    of_shop, declared = (found := view(late, ttl=timedelta(days=2), name="late_x")), training_set("late", features=[found], columns=[])
    predictions = ml.BatchPrediction("p", model=(clf := model(declared)), dataset=late)
    built = ml.build_definitions([late, of_shop, declared, clf, predictions], platform=ml.Platform.at(tmp_path))
    mappings = built.resolve_asset_graph().get(asset_key("predictions/p")).partition_mappings
    mapping = mappings[asset_key("features/late_x")]
    assert mapping.start_offset == {"Daily": -2, "Hourly": -48, "Monthly": -1}[kind.__name__.removesuffix("PartitionsDefinition")]


def test_a_good_project_is_not(tmp_path) -> None:
    assert ml.build_definitions([ROWS, EXAMPLES, CLF, gate_of(CLF), rows_by_hand], platform=ml.Platform.at(tmp_path))


def unannotated():
    @ml.dataset()
    def bare(rows) -> pl.DataFrame: ...


def unknown_type():
    @ml.dataset()
    def odd(rows: int) -> pl.DataFrame: ...


def holdout():
    @ml.model(training_set=EXAMPLES, metrics=["roc_auc"])
    def cheat(train: ml.Split, holdout: ml.Split) -> LogisticRegression: ...


def window_without_partitions():
    @ml.dataset()
    def odd(window: ml.TimeWindow) -> pl.DataFrame: ...


DECLARATIONS = {
    "no annotation": (unannotated, ["@ml.dataset 'bare'", "'rows' has no annotation"]),
    "an annotation that says nothing": (unknown_type, ["@ml.dataset 'odd'", "'rows' is annotated int"]),
    "training on the holdout": (holdout, ["'cheat' takes the holdout"]),
    "a window without partitions": (window_without_partitions, ["'odd' takes a TimeWindow but has no partitions"]),
    "partitions without a time": (
        lambda: dataset(partitions=DAILY, event_timestamp=None, known_at={}, schema=None),
        ["'rows' is partitioned but declares no event_timestamp"],
    ),
    "partitions that are no time": (lambda: dataset(partitions=dg.StaticPartitionsDefinition(["a"])), ["StaticPartitionsDefinition"]),
    "a key that the schema lacks": (lambda: dataset(key="ids"), ["key names the column 'ids'", "did you mean 'id'"]),
    "a split by time without a time": (
        lambda: training_set(event_timestamp=None, split=ml.TimeSplit(timedelta(1), timedelta(1))),
        ["'examples' declares no event_timestamp"],
    ),
    "a gate on a metric that is not measured": (
        lambda: model(EXAMPLES, gates=[ml.Gate("r2", at_least=0)]),
        ["'r2', which is not measured"],
    ),
    "a gate without a rule": (lambda: ml.Gate("r2"), ["0 rules"]),
    "a gate with two rules": (lambda: ml.Gate("r2", at_least=0, better_than_champion_by=1), ["2 rules"]),
    "a gate with a bound that is no number": (lambda: ml.Gate("r2", at_least=float("nan")), ["nan"]),
    "a name that cannot be a table": (lambda: ml.ExternalDataset("My Table"), ["'My Table'", "lower-case"]),
    "a split that leaves a part empty": (lambda: ml.GroupSplit("g", validation=0.6, holdout=0.4), ["leaves a part empty"]),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_the_declaration_is_refused(name) -> None:
    declare, words = DECLARATIONS[name]
    with pytest.raises(DefinitionError) as caught:
        declare()
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\nHint: " in str(caught.value)


def test_the_key_of_a_service_holds_for_its_model() -> None:
    silent, keyed = ml.Service("silent", model=CLF), ml.Service("keyed", model=CLF, key=("shop", "id"))
    other = ml.Service("other", model=CLF, key=("id", "shop"))  # the same columns
    for services, key in (((silent,), ("id",)), ((silent, keyed), ("shop", "id")), ((keyed, other), ("shop", "id"))):
        items = [ROWS, EXAMPLES, CLF, *services]
        check_project(Project.from_items(items))
        assert row_key(Project.from_items(items), CLF) == key


def test_values_are_still_the_functions_and_hash() -> None:
    @ml.dataset(key="id")
    def three() -> pl.DataFrame:
        return pl.DataFrame({"id": [1, 2, 3]})

    assert three().height == 3
    assert len({ROWS, EXAMPLES, CLF, three, ml.Gate("r2", at_least=0.0)}) == 5
    assert np.array_equal(on_demand("@ml.on_demand_features\ndef clock(x): return {'z': x}")(np.array([1]))["z"], [1])
