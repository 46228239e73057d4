"""Versions get a card when they are registered: binary, multiclass and regression; written once, and never in the way."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
from lightgbm import LGBMClassifier
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.naive_bayes import GaussianNB

import mlops_assets as ml
from mlops_assets.compute.pages.card_forms import render_markdown
from mlops_assets.compute.training.importance import PermutationImportance
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training import estimator_kind
from mlops_assets.orchestrate.versions import card as card_module
from mlops_assets.orchestrate.versions import registration as registering
from mlops_assets.orchestrate.versions.card import MARKDOWN, PAGE, build_card, ensure_card
from mlops_assets.serving.formats.packaging import unpack
from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.version_files import open_version_files
from tests.browser import browser_page
from tests.conftest import Runner, metadata
from tests.home_template import open_home_template
from tests.projects import shop

TABLES = [shop.visits, shop.crowds, shop.crowding, shop.examples]
STEPS = ("training_set/examples", "model/buyer", "version/buyer")
LIMITS = ("Not for visitors under 18 | <b>ever</b>.", "Knows nothing of weekends.")
SOLD = dataclasses.replace(shop.buyer, slices=("shop",), limits=LIMITS, approval=True)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the row that begins with a word."""
    return next([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(f"| {first} "))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The home of a shop whose model was registered once, and the metadata of its version."""
    with open_home_template(tmp_path_factory.mktemp("sold")) as template, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_WORLD", "")
        runner = Runner(ml.build_definitions([*TABLES, SOLD], platform=template.platform), template.instance)
        runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(4)}")
        yield template, metadata(runner(*STEPS), "version/buyer")


@pytest.fixture
def sold(template, platform, instance, monkeypatch):
    """A copy of the shop."""
    monkeypatch.setenv("SHOP_WORLD", "")
    home, shown = template
    home.copy_to(platform, instance)
    runner = Runner(ml.build_definitions([*TABLES, SOLD], platform=platform), instance)
    return runner, Project.from_items([*TABLES, SOLD]), SOLD, shown


def test_a_card_says_what_the_version_is_and_the_ui_shows_it(sold, platform) -> None:
    _, project, model, shown = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    card = ensure_card(project, at, model, version)[MARKDOWN]
    assert shown["model card"] == card
    assert card.startswith("# buyer, version 1\n\nProbability that a visitor buys.\n")
    assert "- stored as: skops" in card
    assert "- estimator: StandardScaler → LogisticRegression" in card
    rows = at.lake.read("training_set/examples", snapshot=version.snapshot)
    holdout = rows.filter(pl.col("split") == "holdout")
    share = holdout["bought"].mean()
    data = section(card, "Data")
    assert cells(data, "holdout")[1] == f"{holdout.height:,}"
    assert cells(data, "True")[3] == f"{share:.1%} ({int(holdout['bought'].sum()):,})"
    assert cells(data, "holdout")[2] == f"{holdout['at'].min():%Y-%m-%d %H:%M}"
    signature = section(card, "Features and signature")
    assert cells(signature, "visitors")[1:4] == ["Float64", "features/crowds", "none"]
    assert cells(signature, "price")[2] == "a column of training_set/examples"
    estimator = unpack(at.artifacts, version.artifact).estimator
    predicted = estimator.predict_proba(holdout.select("visitors", "price", "colour"))[:, 1]
    auc = roc_auc_score(holdout["bought"], predicted)
    told = cells(section(card, "Metrics"), "roc_auc")
    low, high = (float(bound) for bound in told[2].split(" … "))
    assert told[1] == f"{auc:.4f}"
    assert low < auc < high
    assert told[3] == "0.5000"
    assert {cells(section(card, "Slices"), f"shop = {where}")[1] for where in ("north", "south")} == {
        f"{n:,}" for n in holdout["shop"].value_counts()["count"]
    }
    assert f"Brier score {brier_score_loss(holdout['bought'], predicted):#.4g}" in section(card, "Calibration")
    assert cells(section(card, "Importance"), "price")[1] > "0.1"
    limits = section(card, "Limits and warnings")
    assert "Not for visitors under 18 &#124; &lt;b&gt;ever&lt;/b&gt;." in limits
    assert "Checked for leakage, unseeded random numbers, unsorted rows: nothing found." in limits
    assert cells(section(card, "Gates"), "roc_auc_at_least")[1] == "passed"
    assert "A person must approve it before it becomes champion.\n\nIt is not decided yet." in section(card, "Approvals")
    lineage = section(card, "Lineage")
    (record,) = at.lake.records("training_set/examples", snapshot=version.snapshot).values()
    assert cells(lineage, "training_set/examples")[1] == f"{record.rows:,}"
    assert cells(lineage, "dataset/visits")[2] == "5"
    assert version.run_id in lineage
    assert "mlops reproduce buyer@1" in section(card, "How to reproduce")


def test_importance_is_read_from_the_record_of_the_training(sold, platform, monkeypatch) -> None:
    _, project, model, shown = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    stored = PermutationImportance.from_json(at.tracker.get(version.run_id).record[card_module.IMPORTANCE])
    assert (stored.metric, {one.column for one in stored.columns}) == ("roc_auc", {"visitors", "price", "colour"})
    shuffle = mock.Mock(side_effect=card_module.permutation_importance)
    monkeypatch.setattr(card_module, "permutation_importance", shuffle)
    found = build_card(project, at, model, version)
    shuffle.assert_not_called()
    monkeypatch.setattr(card_module, "IMPORTANCE", "what earlier programs did not record")
    computed = build_card(project, at, model, version)
    shuffle.assert_called_once()
    assert section(render_markdown(found), "Importance") == section(render_markdown(computed), "Importance")
    assert section(shown["model card"], "Importance") == section(render_markdown(found), "Importance")


MEASURED_SECTIONS = ("Data", "Features and signature", "Metrics", "Slices", "Calibration", "Importance", "Limits and warnings")


def test_the_run_that_trains_reads_no_rows_for_its_card(sold, platform, monkeypatch) -> None:
    _, project, model, shown = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    read = mock.Mock(side_effect=card_module.read_verified)
    monkeypatch.setattr(card_module, "read_verified", read)
    recorded = build_card(project, at, model, version, dagster_run=at.tracker.get(version.run_id).dagster_run_id)
    read.assert_not_called()
    measured = build_card(project, at, model, version)
    read.assert_called_once()
    for title in MEASURED_SECTIONS:
        assert [part for part in recorded.sections if part.title == title] == [part for part in measured.sections if part.title == title]
        assert section(shown["model card"], title) == section(render_markdown(measured), title)


def test_a_training_that_cannot_be_measured_for_its_card_is_measured_by_the_card(platform, instance, monkeypatch) -> None:
    monkeypatch.setenv("SHOP_WORLD", "")
    monkeypatch.setattr(estimator_kind, "measure_sections", mock.Mock(side_effect=RuntimeError("labels are beyond it")))
    runner = Runner(ml.build_definitions([*TABLES, shop.buyer], platform=platform), instance)
    runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(4)}")
    card = metadata(runner(*STEPS), "version/buyer")["model card"]
    (version,) = open_stores(platform).registry.versions("buyer")
    assert "measured" not in open_stores(platform).tracker.get(version.run_id).record
    assert cells(section(card, "Metrics"), "roc_auc")[1] > "0.5"


def test_a_card_is_written_once(sold, platform) -> None:
    runner, project, model, shown = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    first = ensure_card(project, at, model, version)
    at.registry.approve("buyer", 1, approved=True, approver="grace", reason="checked")
    assert ensure_card(project, at, dataclasses.replace(model, limits=()), version) == first
    again = metadata(runner("version/buyer"), "version/buyer")
    assert again["model card"] == shown["model card"]
    files = open_version_files(platform.registry)
    kept = files.list_files("buyer", 1)
    assert set(kept) == {MARKDOWN, PAGE}
    assert files.add("buyer", 1, {MARKDOWN: "0" * 64, "model.onnx": "1" * 64}) == kept | {"model.onnx": "1" * 64}
    assert "approved" in section(made_card_text(project, at, model, version), "Approvals")  # only a current card says so


def made_card_text(project, at, model, version) -> str:
    from mlops_assets.compute.pages.card_forms import render_markdown

    return render_markdown(build_card(project, at, model, version))


def test_a_version_of_before_there_were_cards_gets_one_from_its_record(sold, platform) -> None:
    _, project, model, _ = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    then = ensure_card(project, at, model, version)[MARKDOWN]
    with sql.open_database(platform.registry).write_transaction() as connection:  # as such a program left it
        connection.execute(schema.version_files.delete())
        (row,) = connection.execute(sa.select(schema.runs.c.record).filter_by(id=version.run_id)).scalars()
        older = {name: value for name, value in row.items() if name not in ("facts", "inputs")}
        connection.execute(schema.runs.update().where(schema.runs.c.id == version.run_id).values(record=older))
        connection.exec_driver_sql("DROP TRIGGER mlops_versions_no_update")
        early = (version.created_at - timedelta(days=40)).isoformat()
        connection.execute(schema.versions.update().values(created_at=early))
    (version,) = open_stores(platform).registry.versions("buyer")
    card = ensure_card(project, at, model, version)[MARKDOWN]
    for same in ("Data", "Features and signature", "Metrics", "Slices", "Calibration", "Importance", "Gates"):
        assert section(card, same) == section(then, same)
    assert "later than the version" in card
    assert "Checked for leakage: nothing found." in card
    assert "before records were complete enough" in section(card, "How to reproduce")
    assert ensure_card(project, at, model, version)[MARKDOWN] == card


def test_missing_rows_are_reported_with_what_is_recorded(sold, platform) -> None:
    _, project, model, _ = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    card = made_card_text(project, at, model, dataclasses.replace(version, snapshot=0))
    assert "> **Warning:** The training rows cannot be read any more" in section(card, "Data")
    value = at.tracker.get(version.run_id).metrics["roc_auc"]
    assert cells(section(card, "Metrics"), "roc_auc")[1] == f"{value:.5g}"
    assert "Leakage was not checked." in card
    low, high = (float(bound) for bound in cells(section(card, "Features and signature"), "price")[4].split(" … "))
    train = at.lake.read("training_set/examples").filter(pl.col("split") == "train")
    assert (low, high) == pytest.approx((train["price"].min(), train["price"].max()), rel=1e-5)


def test_rows_that_were_erased_are_not_taken_for_those_of_then(sold, platform) -> None:
    _, project, model, _ = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    with sql.open_database(platform.registry).write_transaction() as connection:
        (row,) = connection.execute(sa.select(schema.runs.c.record).filter_by(id=version.run_id)).scalars()
        connection.execute(schema.runs.update().where(schema.runs.c.id == version.run_id).values(record=row | {"training_set": "0" * 64}))
    assert "in the same snapshot now: rows were erased" in section(made_card_text(project, at, model, version), "Data")


def test_a_page_fits_a_phone_and_asks_for_nothing(sold, platform, tmp_path) -> None:
    _, project, model, _ = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    file = tmp_path / "card.html"
    file.write_text(ensure_card(project, at, model, version)[PAGE])
    with browser_page(390, 800) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("section").count() == 11
        assert page.locator("svg").count() == 2
        assert LIMITS[0] in page.locator("section").nth(6).inner_text()
        assert asked == [file.as_uri()]
        page.screenshot(path=str(tmp_path / "phone.png"), full_page=True)


def test_leaks_and_chance_are_warnings(platform, instance) -> None:
    rng = np.random.default_rng(2)

    @ml.dataset(key="id")
    def things() -> pl.DataFrame:
        y = rng.random(600) < 0.5
        return pl.DataFrame({"id": range(600), "x": rng.normal(size=600), "told": y * 2.0 + 1, "y": y})

    @ml.training_set(columns=["x", "told"], label="y", split=ml.GroupSplit("id"), label_copies=["told"])
    def learned(things: pl.DataFrame) -> pl.DataFrame:
        return things

    @ml.model(training_set=learned, metrics=["roc_auc"])
    def guesser(train: ml.Split) -> SGDClassifier:
        return SGDClassifier(loss="log_loss").fit(train.X, train.y)

    runner = Runner(ml.build_definitions([things, learned, guesser], platform=platform), instance)
    card = metadata(runner("dataset/things", "training_set/learned", "model/guesser", "version/guesser"), "version/guesser")["model card"]
    limits = section(card, "Limits and warnings")
    assert "> **Warning:** 'told' in X repeats the label y, which is known only after the row" in limits
    assert "> **Warning:** the training draws from the global generator of numpy (random_state is None)" in limits
    assert "No limits are declared" in limits
    assert "nothing found" not in limits


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_other_kinds_of_models_have_cards_too(platform, instance, kind) -> None:
    load, metric, estimator = {
        "multiclass": (load_iris, "neg_log_loss", GaussianNB()),
        "regression": (load_diabetes, "neg_mean_absolute_error", LinearRegression()),
    }[kind]
    X, y = load(return_X_y=True)
    names = np.array(["setosa", "versi|color", "<b>virginica</b>"], dtype=object)

    @ml.dataset(key="id")
    def things() -> pl.DataFrame:
        label = pl.Series("y", names[y].tolist() if kind == "multiclass" else y)
        return pl.DataFrame({"id": range(len(y)), **{f"x{i}": X[:, i] for i in range(3)}}).with_columns(label)

    @ml.training_set(columns=["x0", "x1", "x2"], label="y", split=ml.GroupSplit("id", holdout=0.4))
    def learned(things: pl.DataFrame) -> pl.DataFrame:
        return things

    @ml.model(training_set=learned, metrics=[metric, "neg_max_error" if kind == "regression" else "accuracy"])
    def judge(train: ml.Split) -> object:
        return estimator.fit(train.X, train.y)

    nouns = [things, learned, judge]
    runner = Runner(ml.build_definitions(nouns, platform=platform), instance)
    card = metadata(runner("dataset/things", "training_set/learned", "model/judge", "version/judge"), "version/judge")["model card"]
    at = open_stores(platform)
    (version,) = at.registry.versions("judge")
    holdout = at.lake.read("training_set/learned").filter(pl.col("split") == "holdout")
    if kind == "multiclass":
        assert "- kind: multiclass classification" in card
        shares = unpack(at.artifacts, version.artifact).estimator.predict_proba(holdout.select("x0", "x1", "x2"))
        brier = np.square(shares - (holdout["y"].to_numpy()[:, None] == sorted(names)).astype(float)[:, [0, 1, 2]]).sum(axis=1).mean()
        assert f"Brier score {brier:#.4g}" in section(card, "Calibration")
        assert cells(section(card, "Data"), "versi&#124;color")[1].endswith(")")
        assert "&lt;b&gt;virginica&lt;/b&gt;" in card
    else:
        assert "- kind: regression" in card
        assert cells(section(card, "Data"), "holdout")[1] == f"{holdout.height:,}"
        spread = next(
            line for line in section(card, "Data").splitlines() if line.startswith("| holdout") and f"{holdout['y'].max():.1f}" in line
        )
        assert f"{holdout['y'].mean():#.4g}".rstrip(".") in spread
        assert "in units of the label" in section(card, "Calibration")
    assert float(cells(section(card, "Importance"), "x2")[1].replace("−", "-")) > 0
    page = ensure_card(Project.from_items(nouns), at, judge, version)[PAGE]
    assert "<b>virginica" not in page
    assert page.count("<svg") == 2


@pytest.mark.parametrize(("form", "stored"), [("native", "lightgbm"), ("onnx", "onnx")])
def test_a_card_asks_the_stored_model_in_any_format(platform, instance, monkeypatch, form, stored) -> None:
    monkeypatch.setenv("SHOP_WORLD", "")

    @ml.model(training_set=shop.examples, metrics=["roc_auc"], format=form)
    def buyer(train: ml.Split) -> object:
        if form == "native":
            return LGBMClassifier(n_estimators=20, verbose=-1, random_state=0).fit(train.X.to_pandas(), train.y)
        return LogisticRegression().fit(train.X, train.y)

    runner = Runner(ml.build_definitions([*TABLES, buyer], platform=platform), instance)
    runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(4)}")
    card = metadata(runner(*STEPS), "version/buyer")["model card"]
    assert f"- stored as: {stored}" in card
    assert "- kind: binary classification" in card
    recorded = open_stores(platform).tracker.get(open_stores(platform).registry.versions("buyer")[0].run_id).metrics["roc_auc"]
    assert float(cells(section(card, "Metrics"), "roc_auc")[1]) == pytest.approx(recorded, abs=1e-4)
    assert "Brier score 0." in card
    assert float(cells(section(card, "Importance"), "price")[1]) > 0.05


def test_a_card_that_cannot_be_made_is_not_in_the_way(platform, instance, monkeypatch) -> None:
    monkeypatch.setenv("SHOP_WORLD", "")
    runner = Runner(ml.build_definitions([*TABLES, shop.buyer], platform=platform), instance)
    runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(1)}")

    def broken(*_: object, **__: object) -> dict[str, str]:
        raise RuntimeError("shuffled rows are beyond it")

    monkeypatch.setattr(registering, "ensure_card", broken)
    shown = metadata(runner(*STEPS, "champion/buyer"), "version/buyer")
    assert shown["model card"] == "failed (RuntimeError): mlops models card buyer@1"
    assert open_stores(platform).registry.champion("buyer").version == 1
    monkeypatch.undo()
    assert metadata(runner("version/buyer"), "version/buyer")["model card"].startswith("# buyer, version 1")


def test_a_damaged_card_is_refused(sold, platform) -> None:
    _, project, model, _ = sold
    at, (version,) = open_stores(platform), open_stores(platform).registry.versions("buyer")
    ensure_card(project, at, model, version)
    sha256 = open_version_files(platform.registry).list_files("buyer", 1)[MARKDOWN]
    (file,) = (f for f in Path(platform.home).rglob(f"*{sha256[2:]}*") if f.is_file())
    file.chmod(0o644)
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with pytest.raises(ArtifactError, match=sha256[:12]):
        ensure_card(project, at, model, version)
