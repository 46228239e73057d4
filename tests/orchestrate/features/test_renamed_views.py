"""One view looked up twice in one row: the airport of origin and that of destination, in training, batch, service, skew and reproduction."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.tree import DecisionTreeRegressor

import mlops_assets as ml
from mlops_assets.compute.tables.own_columns import LOGGED_AT, MODEL_VERSION, PREDICTION_COLUMNS, rename_from_table
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.features.discovery import find_usage
from mlops_assets.orchestrate.online.skew import SkewReading, check_skew
from mlops_assets.orchestrate.reproduction.reproduction import ReproductionOptions, reproduce
from mlops_assets.orchestrate.upkeep import erasure
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata

START = datetime(2024, 1, 1, tzinfo=UTC)
AIRPORTS, ROWS, TTL = ["JFK", "LGA", "EWR", "SFO"], 120, timedelta(hours=7)


def observations() -> pl.DataFrame:
    """Return the wind of three airports at odd hours; nothing is ever known of San Francisco."""
    rng = np.random.default_rng(0)
    hours = sorted(rng.choice(24 * 6, size=40, replace=False).tolist())
    made = [
        {"airport": airport, "at": START + timedelta(hours=hour), "wind": float(rng.normal()), "gusts": None if hour % 3 else hour}
        for hour in hours
        for airport in AIRPORTS[:3]
    ]
    return pl.DataFrame(made, schema_overrides={"at": pl.Datetime("us", "UTC"), "gusts": pl.Int64})


def trips() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    at = [START + timedelta(minutes=int(m)) for m in np.sort(rng.integers(0, 6 * 24 * 60, ROWS))]
    origin, dest = rng.choice(AIRPORTS, ROWS), rng.choice(AIRPORTS, ROWS)
    frame = pl.DataFrame(
        {"trip": [f"t{i}" for i in range(ROWS)], "leaves": at, "origin": origin, "dest": dest, "late": rng.normal(size=ROWS)}
    )
    return frame.with_columns(pl.col("leaves").cast(pl.Datetime("us", "UTC")))


def by_hand(frame: pl.DataFrame) -> pl.DataFrame:
    """Join by hand: of each airport the newest observation that is not older than the ttl, else the default."""
    known = observations().to_dicts()

    def newest(airport: str, at: datetime) -> dict:
        rows = [row for row in known if row["airport"] == airport and row["at"] <= at <= row["at"] + TTL]
        return max(rows, key=lambda row: row["at"]) if rows else {"wind": None, "gusts": None}

    found = {f"{end}_{name}": [] for end in ("origin", "dest") for name in ("wind", "gusts")}
    for row in frame.iter_rows(named=True):
        for end in ("origin", "dest"):
            for name, value in newest(row[end], row["leaves"]).items():
                if f"{end}_{name}" in found:
                    found[f"{end}_{name}"].append(-1 if value is None and name == "gusts" else value)
    return pl.DataFrame(found, schema_overrides={"origin_gusts": pl.Int64, "dest_gusts": pl.Int64})


@ml.dataset(key=("airport", "at"), event_timestamp="at")
def weather() -> pl.DataFrame:
    return observations()


@ml.dataset(key="trip", event_timestamp="leaves")
def flights() -> pl.DataFrame:
    return trips()


at_airport = ml.FeatureView(
    source=weather,
    entity=ml.Entity("airport"),
    event_timestamp="at",
    ttl=TTL,
    features={"wind": float, "gusts": int},
    defaults={"gusts": -1},
    online=True,
)
origin, dest = (at_airport.renamed(f"{end}_", join_keys={"airport": end}) for end in ("origin", "dest"))


@ml.training_set(features=[origin, dest], columns=[], label="late", event_timestamp="leaves", split=ml.GroupSplit("trip"))
def examples(flights: pl.LazyFrame) -> pl.LazyFrame:
    return flights


@ml.model(training_set=examples, metrics=["r2"])
def delay(train: ml.Split) -> DecisionTreeRegressor:
    return DecisionTreeRegressor(max_depth=3, random_state=0).fit(train.X, train.y)


scores = ml.BatchPrediction("scores", model=delay, dataset=flights)
api = ml.Service("delay_api", model=delay)
NOUNS = [weather, flights, at_airport, examples, delay, scores, api]
X = ["origin_gusts", "origin_wind", "dest_gusts", "dest_wind"]


def test_one_view_is_looked_up_by_two_columns_everywhere_alike(platform, instance) -> None:
    runner, at, project = Runner(ml.build_definitions(NOUNS, platform=platform), instance), open_stores(platform), Project.from_items(NOUNS)
    made = runner(
        "dataset/weather",
        "dataset/flights",
        "features/weather",
        "online/weather",
        "training_set/examples",
        "model/delay",
        "version/delay",
        "champion/delay",
        "predictions/scores",
    )
    spine = trips()
    right = by_hand(spine)
    assert right["origin_wind"].null_count() < ROWS / 2
    trained = at.lake.read("training_set/examples").sort("trip")
    hand = pl.concat([spine.select("trip"), right], how="horizontal").sort("trip")
    assert trained.select(X).equals(hand.select(X))
    batch = rename_from_table(at.lake.read("predictions/scores"), PREDICTION_COLUMNS).sort("trip")
    assert batch.select(X).equals(hand.select(X))

    lineage = metadata(made, "training_set/examples")["dagster/column_lineage"].deps_by_column
    assert [(dep.asset_key.to_user_string(), dep.column_name) for dep in lineage["dest_wind"]] == [("features/weather_features", "wind")]
    assert find_usage(project, at, at_airport).training_sets == ("examples",)
    assert find_usage(project, at, at_airport).versions == ("delay@1",)

    version = at.registry.champion("delay")
    model = load_served_model(
        "delay",
        TargetVersion(1, version.digest, version.artifact),
        artifacts=at.artifacts,
        online=platform.online,
        limits=RequestLimits(max_rows=ROWS, max_bytes=10**6),
    )
    asked = spine.select("trip", "leaves", "origin", "dest").with_columns(pl.col("leaves").dt.to_string("iso:strict"))
    many = model.answer(json.dumps(asked.to_dicts()).encode())
    single = model.answer(json.dumps(asked.row(3, named=True)).encode())
    served = pl.DataFrame(dict(zip(X, many.columns, strict=True)), schema=right.select(X).schema)
    assert served.equals(right.select(X))
    assert [column[0] for column in single.columns] == list(right.select(X).row(3))
    nothing = [n for n in X if by_hand(spine[3:4]).with_columns(pl.col("^.*gusts$").replace(-1, None))[n].null_count()]
    assert single.missing[0] == many.missing[3] == nothing

    now = datetime.now(UTC)
    rows = pl.concat([spine, served], how="horizontal").with_columns(pl.lit(1).alias(MODEL_VERSION), pl.lit(now).alias(LOGGED_AT))
    reading = SkewReading(project, at, at.lake.snapshot())
    fine = check_skew(reading, api, rows)
    assert (fine.passed, fine.facts["values compared"]) == (True, ROWS * len(X))
    number = right["dest_wind"].is_not_null().arg_max()
    wrong = check_skew(
        reading, api, rows.with_columns(pl.when(pl.int_range(pl.len()) == number).then(99.0).otherwise("dest_wind").alias("dest_wind"))
    )
    assert not wrong.passed
    assert f"feature 'dest_wind' of 'weather' for dest = '{spine['dest'][number]}'" in wrong.message
    assert reproduce(at, version, delay.function.function, ReproductionOptions()).verdict in ("IDENTICAL", "EQUIVALENT")


def test_a_notebook_reads_a_renamed_view_as_a_training_set_does(platform, instance) -> None:
    runner = Runner(ml.build_definitions(NOUNS, platform=platform), instance)
    runner("dataset/weather", "features/weather")
    frame = ml.training_frame(trips(), [origin, dest], event_timestamp="leaves", platform=platform)
    assert frame.select(X).equals(by_hand(trips()).select(X))
    pinned = origin.at(open_stores(platform).view_versions.list_versions("weather")[0].version)
    assert ml.training_frame(trips(), [pinned], event_timestamp="leaves", platform=platform)["origin_wind"].equals(frame["origin_wind"])


def test_what_cannot_be_renamed_is_refused_with_the_fix() -> None:
    with pytest.raises(DefinitionError, match="has no join key 'airpot' to rename\nHint: did you mean 'airport'"):
        at_airport.renamed("x_", join_keys={"airpot": "origin"})
    with pytest.raises(DefinitionError, match="is renamed twice"):
        origin.renamed("x_")
    two = ml.FeatureView(source=weather, entity=ml.Entity("pair", ("a", "b")), event_timestamp="at", features={"wind": float}, name="pairs")
    with pytest.raises(DefinitionError, match="has two join keys in the columns b, b"):
        two.renamed("x_", join_keys={"a": "b"})
    assert two.renamed("x_", join_keys={"a": "b", "b": "a"}).renamed_keys == ("b", "a")
    with pytest.raises(
        DefinitionError, match="build_definitions was given a renamed view of 'features/weather'\nHint: pass the view itself"
    ):
        ml.build_definitions([weather, origin])
    with pytest.raises(DefinitionError, match="two inputs named 'gusts'\nHint: .*renamed"):
        ml.build_definitions([weather, flights, at_airport, _examples(at_airport, at_airport)])
    with pytest.raises(DefinitionError, match="refers to the feature view 'features/weather', which is not in the project"):
        ml.build_definitions([weather, flights, examples])
    with pytest.raises(DefinitionError, match="has a column named '__x_gusts'"):
        ml.build_definitions([weather, flights, at_airport, _examples(at_airport.renamed("__x_", join_keys={"airport": "dest"}))])


def _examples(*features: ml.FeatureView) -> object:
    @ml.training_set(features=list(features), columns=[], label="late", event_timestamp="leaves", split=ml.GroupSplit("trip"))
    def examples(flights: pl.LazyFrame) -> pl.LazyFrame:
        return flights

    return examples


def test_an_erasure_names_the_columns_that_hold_the_entity_under_another_name(platform) -> None:
    ml.build_definitions(NOUNS, platform=platform)
    projects = [part.project for part in compiled_projects()]
    request = erasure.ErasureRequest(projects, open_stores(platform), {"airport": "JFK"})
    assert request.other_names == ("dest", "origin")
    assert erasure.ErasureRequest(projects, open_stores(platform), {"trip": "t1"}).other_names == ()
    assert erasure.plan_erasure(request).facts["other_names"] == ("dest", "origin")
