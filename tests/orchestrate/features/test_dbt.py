"""A dbt model that breaks: the message says where, and the features made before stay readable."""

import sqlite3
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DataError, DefinitionError, InstallationError
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.features.dbt_columns import explain_column_error
from mlops_assets.orchestrate.features.dbt_project import DbtFolder
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata, records
from tests.warm_dbt import use_warm_dbt

PROJECT = 'name: shop\nversion: "1.0.0"\nprofile: mlops_lake\nmodels:\n  +database: lake\n  +schema: features\n  +materialized: table\n'
MACRO = "{% macro generate_schema_name(custom, node) -%} {{ custom or target.schema }} {%- endmacro %}"
SOURCES = "version: 2\nsources:\n  - name: dataset\n    database: lake\n    schema: dataset\n    tables: [{name: visits}]\n"
GOOD = "select shop, max(seen_at) as seen_at, avg(x) as mean_x from {{ source('dataset', 'visits') }} group by shop"


@ml.dataset(key="visit", event_timestamp="seen_at")
def visits() -> pl.DataFrame:
    seen_at = pl.datetime(2024, 1, 1, time_zone="UTC").cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"visit": [1, 2], "shop": ["a", "b"], "x": [1.0, 2.0]}).with_columns(seen_at=seen_at)


@pytest.fixture(autouse=True)
def warm(monkeypatch) -> None:
    use_warm_dbt(monkeypatch.setattr)


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "shop"
    for name, text in {
        "dbt_project.yml": PROJECT,
        "macros/names.sql": MACRO,
        "models/sources.yml": SOURCES,
        "models/means.sql": GOOD,
    }.items():
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text(text)
    return found


def build(folder, platform, **options):
    dbt = ml.DbtProject(str(folder))
    view = ml.FeatureView(
        source=dbt.model("means"),
        entity=ml.Entity("shop"),
        event_timestamp="seen_at",
        ttl=timedelta(days=1),
        features={"mean_x": float},
        **options,
    )
    return ml.build_definitions([visits, dbt, view], platform=platform)


def test_a_model_that_breaks_leaves_what_was_made(folder, platform, run) -> None:
    run(build(folder, platform))("dataset/visits", "features/means")
    lake = open_stores(platform).lake
    before = lake.read("features/means").sort("shop")
    assert before["mean_x"].to_list() == [1.0, 2.0]
    (folder / "models" / "means.sql").write_text(GOOD.replace("avg(x)", "avg(no_such_column)"))
    assert "means" in run(build(folder, platform)).error("features/means")
    assert lake.read("features/means").sort("shop").equals(before)
    (folder / "models" / "means.sql").write_text(GOOD.replace("avg(x)", "max(x)"))
    run(build(folder, platform))("features/means")


def write_models(folder, **models: str) -> None:
    for name, text in models.items():
        (folder / "models" / f"{name}.sql").write_text(text)


def find_errors(platform, *tables: str) -> dict[str, str | None]:
    """Return table → error of its attempts; tables without an attempt are left out."""
    with sqlite3.connect(Path(platform.home) / "registry.sqlite") as connection:
        found = dict(connection.execute("select table_name, error from mlops_attempts"))
    return {table: found[table] for table in tables if table in found}


def test_models_that_succeed_are_recorded_when_another_model_fails(folder, platform, run) -> None:
    tables = ("features/means", "features/maxima", "features/means_of_maxima")
    write_models(folder, maxima=GOOD, means_of_maxima="select shop, seen_at, mean_x from {{ ref('maxima') }}")
    run(build(folder, platform))("dataset/visits", *tables)
    before = {table: records(platform, table) for table in tables}
    write_models(folder, means=GOOD.replace("avg(x)", "10 * max(x)"), maxima=GOOD.replace("avg(x)", "avg(no_such_column)"))
    result = run(build(folder, platform))(*tables, ok=False)
    assert metadata(result, "features/means")["dagster/row_count"] == 2
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [asset_key("features/means")]
    changed = {table for table in tables if records(platform, table) != before[table]}
    assert changed == {"features/means"}
    lake = open_stores(platform).lake
    rows = read_verified(lake, "features/means", [Partition("", None)], window=None, event_timestamp=None, snapshot=lake.snapshot())
    assert sorted(rows["mean_x"]) == [10.0, 20.0]
    errors = find_errors(platform, *tables)
    assert set(errors) == set(tables[1:])
    assert all("no_such_column" in error for error in errors.values())


def test_a_model_whose_dbt_test_fails_is_not_recorded_and_its_neighbour_is(folder, platform, run) -> None:
    tables = ("features/means", "features/maxima")
    write_models(folder, maxima=GOOD)
    tests = "version: 2\nmodels:\n  - name: maxima\n    columns: [{name: mean_x, data_tests: [{accepted_values: {arguments: {values: [1, 2]}}}]}]\n"
    (folder / "models" / "tests.yml").write_text(tests)
    run(build(folder, platform))("dataset/visits", *tables)
    before = {table: records(platform, table) for table in tables}
    write_models(folder, **dict.fromkeys(("means", "maxima"), GOOD.replace("avg(x)", "10 * max(x)")))
    result = run(build(folder, platform))(*tables, ok=False)
    assert {table for table in tables if records(platform, table) != before[table]} == {"features/means"}
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [asset_key("features/means")]
    assert [evaluation.passed for evaluation in result.get_asset_check_evaluations()] == [False]
    assert set(find_errors(platform, *tables)) == {"features/maxima"}


def test_a_table_that_cannot_be_recorded_leaves_no_other_table_unrecorded(folder, platform, run, monkeypatch) -> None:
    tables, real = ("features/means", "features/maxima"), DuckLake.record
    write_models(folder, maxima=GOOD)

    def record(self, table, *arguments, **options):
        if table == "features/maxima":
            raise DataError("two rows have one key", hint="correct the model")
        return real(self, table, *arguments, **options)

    monkeypatch.setattr(DuckLake, "record", record)
    runner = run(build(folder, platform))
    assert "two rows have one key" in runner.error("dataset/visits", *tables)
    assert [len(records(platform, table)) for table in tables] == [1, 0]
    assert "two rows have one key" in find_errors(platform, *tables)["features/maxima"]


def test_an_interrupt_of_dbt_leaves_finished_models_recorded(folder, platform, run, monkeypatch) -> None:
    from dagster_dbt import DbtCliInvocation

    real = DbtCliInvocation.stream

    def stream(self):
        yield from real(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(DbtCliInvocation, "stream", stream)
    with pytest.raises(KeyboardInterrupt):
        run(build(folder, platform))("dataset/visits", "features/means")
    assert len(records(platform, "features/means")) == 1


def test_changed_columns_of_an_incremental_model_are_announced_or_name_on_schema_change(folder, platform, run) -> None:
    def materialise(select: str, policy: str = ""):
        text = GOOD.replace("avg(x) as mean_x", f"avg(x) as mean_x{select}")
        (folder / "models" / "means.sql").write_text(f"{{{{ config(materialized='incremental', unique_key='shop'{policy}) }}}}\n{text}")
        return run(build(folder, platform))

    assert "columns changed" not in metadata(materialise("")("dataset/visits", "features/means"), "features/means")
    ignored = metadata(materialise(", 1 as visits")("features/means"), "features/means")
    assert ignored["columns changed"] == (
        "column 'visits' of the model's query is not in its table: set on_schema_change='append_new_columns' or 'sync_all_columns'"
    )
    appended = metadata(materialise(", 1 as visits", ", on_schema_change='append_new_columns'")("features/means"), "features/means")
    assert appended["columns changed"] == "column 'visits' is new"
    message = materialise("").error("features/means")
    assert "the incremental dbt model 'means' does not fit its table" in message
    assert 'Referenced column "visits" not found' in message
    assert "Hint: set on_schema_change='append_new_columns' or 'sync_all_columns'" in message


@pytest.mark.parametrize(
    ("message", "translated"),
    [
        ('Runtime Error in model means\n  Binder Error: Referenced column "z" not found', True),
        ('Runtime Error in model means\n  Binder Error: Referenced column "typo" not found', False),
        ("Compilation Error in model means\n  schemas on this incremental model are out of sync!", True),
        (
            "Runtime Error in model means\n  Conversion Error: Could not convert string 'abc' to DOUBLE when casting from source column z",
            True,
        ),
        (
            "Runtime Error in model means\n  Conversion Error: Could not convert string 'abc' to DOUBLE when casting from source column y",
            False,
        ),
        ("Runtime Error in model other\n  schemas on this incremental model are out of sync!", False),
        ("Database Error in model means\n  Parser Error: syntax error", False),
    ],
)
def test_only_an_error_of_changed_columns_names_on_schema_change(message, translated) -> None:
    error = RuntimeError(message)
    found = explain_column_error(error, {"means": {"z": pl.Int64()}})
    assert (found is not error) == translated
    assert not translated or "on_schema_change" in found.hint


def test_what_a_feature_view_says_of_itself_is_shown_of_its_dbt_model(folder, platform) -> None:
    means = asset_key("features/means")
    plain = build(folder, platform).resolve_asset_graph().get(means)
    assert (plain.group_name, list(plain.owners)) == ("data", [])
    assert plain.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1), warn_window=timedelta(hours=18))
    said = {"description": "Means of a shop.", "group": "shops", "owners": ["team:shops"], "tags": {"tier": "gold"}}
    shown = build(folder, platform, **said).resolve_asset_graph().get(means)
    assert (shown.group_name, list(shown.owners), shown.description) == ("shops", ["team:shops"], "Means of a shop.")
    assert shown.tags["tier"] == "gold"


def test_a_project_that_cannot_be_parsed_or_found_is_named(folder, platform, tmp_path) -> None:
    (folder / "models" / "means.sql").write_text("select {{ oh no")
    with pytest.raises(DefinitionError, match="dbt cannot parse"):
        build(folder, platform)
    with pytest.raises(DefinitionError, match=r"has no dbt_project\.yml"):
        build(tmp_path / "nowhere", platform)


def test_a_torn_manifest_of_dbts_stops_nothing(folder, platform, monkeypatch) -> None:
    work = DbtFolder(str(folder), platform)
    build(folder, platform)
    parses = []
    real = DbtFolder._parse

    def parse(self) -> None:
        real(self)
        parses.append(self.path)

    monkeypatch.setattr(DbtFolder, "_parse", parse)
    whole = work.manifest()
    _tear(work.target / "manifest.json")  # a build was killed while dbt rewrote it
    assert work.manifest() == whole
    build(folder, platform)
    assert parses == []
    _tear(work.work / "parsed.json")  # by whatever means
    assert {name: node["name"] for name, node in work.manifest()["nodes"].items()} == {"model.shop.means": "means"}
    assert len(parses) == 1


def test_a_manifest_that_is_torn_while_it_is_read_is_made_again(folder, platform, monkeypatch) -> None:
    parses, real = [], DbtFolder._parse

    def parse(self) -> None:
        real(self)
        parses.append(self.path)
        if len(parses) == 1:
            _tear(self.target / "manifest.json")

    monkeypatch.setattr(DbtFolder, "_parse", parse)
    work = DbtFolder(str(folder), platform)
    assert "model.shop.means" in work.manifest()["nodes"]
    assert len(parses) == 2
    (folder / "models" / "means.sql").write_text(GOOD + " order by shop")
    monkeypatch.setattr(DbtFolder, "_parse", lambda self: _tear(self.target / "manifest.json"))
    with pytest.raises(InstallationError, match="cannot be read, although dbt has just written it"):
        work.manifest()


def _tear(path) -> None:
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
