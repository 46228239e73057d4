"""A training set repeats its last result while nothing that determines its rows has changed; every change is assembled again."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.training import training_set as training_set_step
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata, records
from tests.memory_instance import open_memory_instance
from tests.projects import shop

DAYS = f"{shop.day_of(0)}...{shop.day_of(2)}"
KEY = "training_set/examples"
LAST_DAYS = 1
declare = ml.training_set(
    features=[shop.crowding],
    columns=["price", "colour"],
    label="bought",
    label_known_at="closed_at",
    event_timestamp="at",
    split=ml.GroupSplit("visit", validation=0.15, holdout=0.35),
)


def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
    """The last days that are known."""
    return visits.filter(pl.col("at") >= pl.col("at").max().dt.truncate(f"{LAST_DAYS}d"))


EXAMPLES = declare(examples)


def build(platform: ml.Platform, instance: dg.DagsterInstance, declared: object = EXAMPLES, visits: object = shop.visits) -> Runner:
    return Runner(ml.build_definitions([visits, shop.crowds, shop.crowding, declared], platform=platform), instance)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[tuple[Path, dg.DagsterInstance]]:
    """A home whose training set is assembled, and its instance."""
    home = tmp_path_factory.mktemp("template") / "home"
    with pytest.MonkeyPatch.context() as patch, open_memory_instance() as instance:
        patch.setenv("SHOP_WORLD", "")
        runner = build(ml.Platform.at(home), instance)
        runner(*shop.DATA, partitions=DAYS)
        runner(KEY)
        yield home, instance


@pytest.fixture
def project(template, platform, monkeypatch) -> Iterator[Callable[..., Runner]]:
    """A function that builds a runner, on a copy of the template."""
    home, made = template
    shutil.copytree(home, platform.home)
    monkeypatch.setenv("SHOP_WORLD", "")
    with open_memory_instance(like=made) as instance:
        yield partial(build, platform, instance)


@pytest.fixture
def assembled(monkeypatch) -> list[str]:
    """The training sets that were assembled."""
    names, assemble = [], training_set_step.assemble_rows
    monkeypatch.setattr(
        training_set_step, "assemble_rows", lambda step, declared, *more: names.append(declared.name) or assemble(step, declared, *more)
    )
    return names


def checks(result) -> list[tuple]:
    return sorted(
        (e.check_name, e.passed, e.severity.value, e.description or "", str({n: v.value for n, v in e.metadata.items()}))
        for e in result.get_asset_check_evaluations()
    )


def test_the_last_result_is_repeated_and_is_the_one_that_assembling_gives(project, assembled, platform, monkeypatch) -> None:
    runner, before = project(), records(platform, KEY)
    quick = runner(KEY)
    assert assembled == []
    assert metadata(quick, KEY)["changed"] == "0 of 1"
    monkeypatch.setattr(training_set_step, "find_last_result", lambda *_: None)
    slow = runner(KEY)
    assert assembled == ["examples"]
    assert len(checks(quick)) == 3
    assert checks(quick) == checks(slow)
    assert metadata(quick, KEY) == metadata(slow, KEY)
    assert records(platform, KEY) == before
    tags = [dict(result.asset_materializations_for_node("training_set__examples")[0].tags) for result in (quick, slow)]
    assert tags[0]["dagster/data_version"] == tags[1]["dagster/data_version"]


@pytest.mark.parametrize(
    "change",
    [
        {"columns": ("colour", "price")},
        {"features": ()},
        {"split": ml.GroupSplit("visit", validation=0.15, holdout=0.35, seed=1)},
        {"as_known": False},
        {"label_copies": ("price",)},
    ],
    ids=["order of columns", "no features", "seed of the split", "as known", "label copies"],
)
def test_a_changed_declaration_is_assembled_again(project, assembled, change) -> None:
    project(dataclasses.replace(EXAMPLES, **change))(KEY)
    assert assembled == ["examples"]


def test_changed_code_is_assembled_again(project, assembled) -> None:
    @declare
    def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.filter(pl.col("at") >= pl.col("at").max().dt.truncate("1d"), pl.col("price") > -9.0)

    runner = project(examples)
    runner(KEY)
    assert assembled == ["examples"]
    runner(KEY)
    assert assembled == ["examples"]


def test_another_value_of_a_constant_is_assembled_again(project, assembled, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.LAST_DAYS", 2)
    project()(KEY)
    assert assembled == ["examples"]


def test_new_data_and_another_time_of_knowledge_are_assembled_again(project, assembled, platform) -> None:
    runner, before = project(), records(platform, KEY)
    runner(KEY, config={"training_set__examples": {"as_of": f"{shop.day_of(2)}T12:00:00"}})
    assert assembled == ["examples"]
    runner(KEY)
    assert assembled == ["examples"] * 2
    assert records(platform, KEY) == before
    runner(*shop.DATA, partitions=shop.day_of(3))
    runner(KEY)
    assert assembled == ["examples"] * 3
    assert records(platform, KEY) != before


def test_a_declaration_of_an_upstream_table_that_checks_use_is_assembled_again(project, assembled) -> None:
    keyed = dataclasses.replace(shop.visits.table, key=("visit", "at"))
    project(visits=dataclasses.replace(shop.visits, table=keyed))(KEY)
    assert assembled == ["examples"]


def _flip_one_value(platform: ml.Platform, file: Path) -> None:
    """Flip a bit so that the lake returns another value, without an error."""
    good, lake = file.read_bytes(), open_stores(platform).lake
    rows = lake.read("dataset/visits")
    for place in range(200, len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with contextlib.suppress(LakeError):
            changed = lake.read("dataset/visits")
            if changed.shape == rows.shape and not changed.equals(rows):
                return
    pytest.fail("no bit changes a value")


def test_a_damaged_and_a_removed_upstream_file_fail_as_they_do_when_assembling(project, assembled, platform) -> None:
    runner = project()
    [file] = (Path(platform.lake) / "data" / "dataset" / "visits").glob("*.parquet")
    good = file.read_bytes()
    file.unlink()
    assert "'dataset/visits'" in runner.error(KEY)
    file.write_bytes(good)
    _flip_one_value(platform, file)
    assert "does not hold what was recorded when it was written" in runner.error(KEY)
    assert set(assembled) == {"examples"}, "the failed attempts are those of assembling"


def test_a_damaged_training_set_is_assembled_again(project, assembled, platform) -> None:
    runner, before = project(), records(platform, KEY)
    lake = open_stores(platform).lake
    lake.mark_damaged([lake.records(KEY)[""]])
    runner(KEY)
    assert assembled == ["examples"]
    assert records(platform, KEY) == before


def read_day(day: int) -> pl.Expr:
    return pl.col("at") >= shop.BASE + pl.duration(days=day)


def test_a_function_that_uses_code_of_the_project_is_assembled_each_time(project, assembled) -> None:
    @declare
    def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.filter(read_day(1))

    runner = project(examples)
    for _ in range(2):
        runner(KEY)
    assert assembled == ["examples"] * 2
