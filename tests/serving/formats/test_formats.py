"""Whatever the format, a stored model predicts as it was trained, runs nothing when it is opened, and says why it is not in the format that was asked for."""

import io
import json
import pickle
import warnings
from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime
import polars as pl
import pytest
import xgboost
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.utils import all_estimators

import mlops_assets as ml
from mlops_assets.compute.features.signature import describe_signature
from mlops_assets.errors import ArtifactError, DefinitionError
from mlops_assets.serving.formats import onnx
from mlops_assets.serving.formats.integrity import find_damage, list_parts
from mlops_assets.serving.formats.packaging import (
    compute_responses,
    describe_format,
    find_changed_libraries,
    pack,
    read_manifest,
    sample_probe_rows,
    unpack,
)
from mlops_assets.serving.formats.serialisation import ALLOW_PICKLE
from mlops_assets.serving.http.control import start, status, stop
from mlops_assets.stores.artifacts.store import open_artifacts
from tests.serving.formats.test_integrity import Bomb, replaced
from tests.serving.support import CARRIERS, Client, Stage, offline, row, training_rows

ROWS = 1200
RNG = np.random.default_rng(5)
X = pl.DataFrame(
    {
        "a": RNG.normal(size=ROWS),
        "b": RNG.normal(size=ROWS) * 10,
        "n": RNG.integers(0, 10, ROWS),
        "c": RNG.choice(["x", "y", "z"], ROWS).tolist(),
    }
)
NUMBERS = X.drop("c")
NARROW = NUMBERS.with_columns(pl.col("a", "b").cast(pl.Float32))
Y = (X["a"].to_numpy() + (X["c"] == "x").to_numpy() + RNG.normal(size=ROWS) > 0).astype(int)
LGBM, XGB = {"n_estimators": 15, "verbose": -1}, {"n_estimators": 15}


@pytest.fixture
def artifacts(tmp_path):
    return open_artifacts(str(tmp_path / "artifacts"))


def encoded(*steps):
    return make_pipeline(make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["c"]), remainder="passthrough"), *steps)


def kept(artifacts, fitted, rows: pl.DataFrame, form: str):
    """Return what is read back of an estimator, and its manifest."""
    manifest = pack(artifacts, fitted, X=rows, modules=[], requested_format=form, facts={})
    return unpack(artifacts, manifest).estimator, read_manifest(artifacts, manifest)


def test_every_estimator_of_scikit_learn_is_stored_as_skops_and_predicts_the_same(artifacts) -> None:
    some, slow = NUMBERS.head(150).with_columns(pl.all().abs()), {"GaussianProcessClassifier", "DummyClassifier", "DummyRegressor"}
    stored, refused = [], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, labels in (("classifier", Y[:150]), ("regressor", X["a"].to_numpy()[:150])):
            for name, make in all_estimators(type_filter=kind):
                if name in slow:
                    continue
                try:
                    fitted = make().fit(some, labels)
                except Exception as error:  # noqa: BLE001  (it needs arguments, or several outputs)
                    refused[name] = str(error)
                    continue
                read, _ = kept(artifacts, fitted, some, "skops")
                np.testing.assert_array_equal(compute_responses(read, some), compute_responses(fitted, some), err_msg=name)
                stored.append(name)
    assert len(stored) > 70, refused
    assert {"RandomForestClassifier", "MLPRegressor", "KNeighborsClassifier", "CalibratedClassifierCV"} <= set(stored)


@pytest.mark.parametrize(
    ("fitted", "rows"),
    [
        (lightgbm.LGBMClassifier(**LGBM).fit(NUMBERS.to_numpy(), Y), NUMBERS),
        (lightgbm.LGBMClassifier(**LGBM).fit(NUMBERS.to_numpy(), Y.astype(bool)), NUMBERS),
        (
            lightgbm.LGBMClassifier(**LGBM).fit(NUMBERS.to_numpy(), np.array(["no", "yes", "so"])[Y + (NUMBERS["a"].to_numpy() > 1)]),
            NUMBERS,
        ),
        (lightgbm.LGBMRegressor(**LGBM).fit(NUMBERS.to_numpy(), X["a"].to_numpy()), NUMBERS),
        (encoded(lightgbm.LGBMClassifier(**LGBM)).fit(X, Y), X),
        (xgboost.XGBClassifier(**XGB).fit(NUMBERS, Y), NUMBERS),
        (xgboost.XGBClassifier(**XGB).fit(NUMBERS, Y + (NUMBERS["a"].to_numpy() > 1)), NUMBERS),
        (xgboost.XGBRegressor(**XGB).fit(NUMBERS, X["a"].to_numpy()), NUMBERS),
        (encoded(xgboost.XGBClassifier(**XGB)).fit(X, Y), X),
    ],
    ids=["lgbm", "bool", "multiclass", "lgbm regressor", "lgbm pipeline", "xgb", "xgb multiclass", "xgb regressor", "xgb pipeline"],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_native_file_predicts_to_the_last_bit_and_its_library_opens_it(artifacts, fitted, rows) -> None:
    read, manifest = kept(artifacts, fitted, rows, "native")
    np.testing.assert_array_equal(compute_responses(read, rows), compute_responses(fitted, rows))
    np.testing.assert_array_equal(read.predict(rows), fitted.predict(rows))
    assert (is_classifier(read), is_regressor(read)) == (is_classifier(fitted), is_regressor(fitted))
    if is_classifier(fitted):
        assert read.classes_.dtype.kind == fitted.classes_.dtype.kind or read.classes_.dtype == object
        assert get_scorer("accuracy")(read, rows, fitted.predict(rows)) == 1.0
    data = artifacts.get(manifest["estimator"])
    if manifest["form"] == "lightgbm":
        assert lightgbm.Booster(model_str=data.decode()).num_trees() >= 15
    else:
        booster = xgboost.Booster()
        booster.load_model(bytearray(data))
        assert booster.num_boosted_rounds() == 15
    assert ("before" in dict(list_parts(dict(manifest)))) == (type(fitted).__name__ == "Pipeline")


def test_the_number_that_stands_for_a_missing_one_is_kept_though_no_probe_row_has_it(artifacts) -> None:
    values = np.random.default_rng(0).normal(size=640)
    values[[i for i in range(640) if i % 10 in (3, 7)]] = -999.0
    rows = pl.DataFrame({"a": values, "b": np.arange(640.0)})
    assert -999.0 not in sample_probe_rows(rows)["a"]
    fitted = xgboost.XGBRegressor(**XGB, missing=-999.0).fit(rows, np.where(values == -999.0, 9.0, values))
    read, _ = kept(artifacts, fitted, rows, "native")
    np.testing.assert_array_equal(read.predict(rows), fitted.predict(rows))


@pytest.mark.parametrize(
    ("fitted", "why"),
    [
        (LogisticRegression(), "a LogisticRegression cannot be stored in its own library's file"),
        (
            lightgbm.LGBMRegressor(**LGBM, objective=lambda y, p: (p - y, np.ones_like(y))),
            "a LGBMRegressor with an objective of your own cannot be stored",
        ),
    ],
)
def test_what_has_no_native_file_is_refused_and_nothing_is_stored(artifacts, fitted, why) -> None:
    with pytest.raises(ArtifactError, match=why):
        pack(artifacts, fitted.fit(NUMBERS.to_numpy(), Y), X=NUMBERS, modules=[], requested_format="native", facts={})
    assert list(artifacts.files()) == []


def test_boosted_trees_stored_as_skops_are_advised_to_use_their_own_format(artifacts) -> None:
    with pytest.raises(
        ArtifactError, match=r"which is not trusted\nHint: store it in the library's own file: @ml.model\(format=\"native\"\)"
    ):
        pack(artifacts, xgboost.XGBClassifier(**XGB).fit(NUMBERS, Y), X=NUMBERS, modules=[], facts={})


@pytest.mark.parametrize(
    ("fitted", "rows"),
    [
        (LogisticRegression(), NUMBERS),
        (make_pipeline(StandardScaler(), Ridge()), NUMBERS),
        (encoded(StandardScaler(with_mean=False), LogisticRegression()), X),
        (HistGradientBoostingClassifier(max_iter=15), NARROW),
        (HistGradientBoostingRegressor(max_iter=15), NARROW),
        (encoded(HistGradientBoostingClassifier(max_iter=15)), X.with_columns(pl.col("a", "b").cast(pl.Float32))),
    ],
    ids=["linear", "pipeline", "text", "trees", "regressor", "text and trees"],
)
def test_onnx_predicts_as_the_estimator_everywhere(artifacts, fitted, rows) -> None:
    fitted.fit(rows, Y)
    read, manifest = kept(artifacts, fitted, rows, "onnx")
    assert manifest["form"] == "onnx"
    assert onnxruntime.InferenceSession(artifacts.get(manifest["estimator"])).get_inputs()
    rng = np.random.default_rng(9)
    fresh = rows.with_columns(
        *(pl.Series(n, rng.permutation(rows[n].to_numpy()) * 1.1, dtype=rows[n].dtype) for n in rows.columns if rows[n].dtype.is_float())
    )
    if "c" in rows.columns:
        fresh = fresh.with_columns(pl.when(pl.col("n") > 7).then(pl.lit("nobody")).otherwise("c").alias("c"))
    np.testing.assert_allclose(compute_responses(read, fresh), compute_responses(fitted, fresh), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(read.set_params(n_jobs=1).predict(fresh), read.predict(fresh))
    assert read.predict(rows.clear().head(0)).shape == (0,)


def test_columns_keep_their_order_under_any_name(artifacts) -> None:
    backwards = NUMBERS.select(reversed(NUMBERS.columns))
    fitted = LogisticRegression().fit(backwards, Y)
    model, manifest = kept(artifacts, fitted, backwards, "onnx")
    assert describe_format(manifest) == "onnx"
    np.testing.assert_allclose(model.predict_proba(backwards), fitted.predict_proba(backwards), atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(NUMBERS), fitted.predict_proba(backwards), atol=1e-5)


def test_a_conversion_that_would_predict_otherwise_is_refused_with_its_place(artifacts, monkeypatch) -> None:
    categories = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["c"]), remainder="passthrough"
    )
    model = make_pipeline(categories, HistGradientBoostingClassifier(categorical_features=[0], max_iter=10)).fit(X, Y)
    read, manifest = kept(artifacts, model, X, "onnx")
    assert "form" not in manifest
    assert "labels flip" in manifest["refused_format"]
    np.testing.assert_array_equal(compute_responses(read, X), compute_responses(model, X))
    wide = HistGradientBoostingClassifier(max_iter=10).fit(NUMBERS, Y)
    told = describe_format(kept(artifacts, wide, NUMBERS, "onnx")[1])
    assert told.startswith("skops (not onnx: on ")
    forest = RandomForestClassifier(5, random_state=0).fit(NARROW, Y)
    assert "nulls, extremes or unseen" in describe_format(kept(artifacts, forest, NARROW, "onnx")[1])
    boosted = lightgbm.LGBMClassifier(**LGBM).fit(NUMBERS.to_numpy(), Y)
    assert describe_format(kept(artifacts, boosted, NUMBERS, "onnx")[1]).startswith("lightgbm (not onnx: the model cannot be converted")
    # Without the mended thresholds the converter puts numbers between a threshold and its rounding on the wrong side.
    narrow = HistGradientBoostingClassifier(max_iter=15).fit(NARROW, Y)
    monkeypatch.setattr(onnx, "_round_thresholds_down", lambda *_: None)
    assert "around the thresholds of" in describe_format(kept(artifacts, narrow, NARROW, "onnx")[1])


def test_a_pickle_is_stored_and_read_only_where_it_is_allowed(artifacts, monkeypatch, tmp_path) -> None:
    model = LogisticRegression().fit(NUMBERS, Y)
    with pytest.raises(ArtifactError, match=f"pickles are not allowed here\nHint: .*{ALLOW_PICKLE}=1"):
        pack(artifacts, model, X=NUMBERS, modules=[], requested_format="pickle", facts={})
    monkeypatch.setenv(ALLOW_PICKLE, "1")
    manifest = pack(artifacts, model, X=NUMBERS, modules=[], requested_format="pickle", facts={})
    np.testing.assert_array_equal(compute_responses(unpack(artifacts, manifest).estimator, NUMBERS), compute_responses(model, NUMBERS))
    monkeypatch.delenv(ALLOW_PICKLE)
    with pytest.raises(ArtifactError, match="pickles are not allowed here"):
        unpack(artifacts, manifest)


@pytest.mark.parametrize("form", ["skops", "lightgbm", "xgboost", "onnx", "pickle", "joblib"])
def test_a_pickle_in_the_place_of_any_format_never_runs(artifacts, tmp_path, form) -> None:
    target = tmp_path / "executed"
    manifest = pack(artifacts, LogisticRegression().fit(NUMBERS, Y), X=NUMBERS, modules=[], facts={})
    facts = {"class": "XGBClassifier", "n_features": 3, "columns": {"a": "number"}, "kind": "double", "single": True}
    for more in ({}, {"before": artifacts.put(pickle.dumps(Bomb(target)))}):
        forged = replaced(artifacts, manifest, form=form, form_facts=facts, estimator=artifacts.put(pickle.dumps(Bomb(target))), **more)
        with pytest.raises(ArtifactError):
            unpack(artifacts, forged)
    assert not target.exists()


def test_a_flipped_bit_in_a_native_file_is_found(artifacts) -> None:
    manifest = pack(artifacts, encoded(lightgbm.LGBMClassifier(**LGBM)).fit(X, Y), X=X, modules=[], requested_format="native", facts={})
    for part in ("estimator", "before"):
        file = Path(artifacts.url(json.loads(artifacts.get(manifest))[part]).removeprefix("file://"))
        whole = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(bytes([*whole[:40], whole[40] ^ 1, *whole[41:]]))
        assert find_damage(artifacts, manifest).startswith(f"{part}: ")
        with pytest.raises(ArtifactError, match="was changed after it was stored"):
            unpack(artifacts, manifest)
        file.write_bytes(whole)
    assert unpack(artifacts, manifest)


def test_other_library_versions_are_named_when_a_model_predicts_otherwise(artifacts) -> None:
    manifest = pack(artifacts, LogisticRegression().fit(NUMBERS, Y), X=NUMBERS, modules=[], facts={"libraries": {"scikit-learn": "0.1"}})
    assert [(o.name, o.trained, o.serious) for o in find_changed_libraries(read_manifest(artifacts, manifest))] == [
        ("scikit-learn", "0.1", True)
    ]
    unpack(artifacts, manifest)  # it predicts as it did: whoever loads it warns
    other = [[0.5, 0.5]] * 64
    with pytest.raises(
        ArtifactError, match=r"predicts differently from when it was stored: it was trained with scikit-learn 0\.1 then, \d"
    ):
        unpack(artifacts, replaced(artifacts, manifest, probe_predictions=other))


def test_a_signature_says_what_was_seen(artifacts) -> None:
    rows = pl.DataFrame(
        {
            "x": [1.5, None, float("inf"), float("nan")] * 5,
            "t": ["b", "a", None, "a"] * 5,
            "at": pl.Series(["2024-01-02T00:00:00", None, None, "2023-01-01T00:00:00"] * 5).str.to_datetime(time_zone="UTC"),
        }
    )
    x, t, at = json.loads(json.dumps(describe_signature(rows)))
    assert (x["minimum"], x["maximum"], x["nulls"]) == (1.5, 1.5, 0.25)
    assert t == {"column": "t", "dtype": "String", "nulls": 0.25, "minimum": None, "maximum": None, "categories": ["a", "b"], "others": 0}
    assert (at["minimum"], at["maximum"]) == ("2023-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00")
    manifest = kept(artifacts, LogisticRegression().fit(NUMBERS, Y), NUMBERS, "skops")[1]
    assert manifest["signature"] == describe_signature(NUMBERS)


def test_a_format_that_is_none_is_refused_when_it_is_declared() -> None:
    examples = ml.training_set(columns=["x"], label="y", split=ml.GroupSplit("id"))(any_rows)
    with pytest.raises(DefinitionError, match="unknown format 'onx'\nHint: did you mean 'onnx'"):
        ml.model(training_set=examples, metrics=["roc_auc"], format="onx")(any_model)


def any_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def any_model(train: ml.Split) -> LogisticRegression:
    return LogisticRegression().fit(train.X, train.y)


def test_a_service_answers_from_each_format_as_the_estimator_and_names_other_library_versions(tmp_path) -> None:
    stage = Stage(tmp_path / "home")
    rows = training_rows().with_columns(pl.col(pl.Float64).cast(pl.Float32))
    late = (rows["hour"].to_numpy() > 15) ^ (np.random.default_rng(1).random(rows.height) < 0.2)
    encoder = make_column_transformer((OneHotEncoder(categories=[CARRIERS], handle_unknown="ignore"), ["carrier"]), remainder="passthrough")
    fitted = {
        stage.register(model, rows, form, form=form, libraries=libraries): model
        for form, model, libraries in (
            ("native", make_pipeline(encoder, lightgbm.LGBMClassifier(**LGBM)).fit(rows, late), {"lightgbm": "1.0"}),
            ("onnx", make_pipeline(encoder, HistGradientBoostingClassifier(max_iter=15)).fit(rows, late), {}),
        )
    }
    try:
        for version, model in fitted.items():
            stage.promote(version)
            running = start(stage.spec(workers=1))
            client = Client(running.url)
            for i in range(40):
                (answer,) = client.predict(row(i))["predictions"]
                assert answer["probability"] == pytest.approx(offline(model, row(i)), abs=1e-5)
            client.close()
            (worker,) = status(stage.spec().home, "lateness_api").workers
            assert worker.version == version
            assert worker.libraries.startswith("lightgbm 1.0 then, 4") if version == 1 else worker.libraries == ""
    finally:
        stop(stage.spec().home, "lateness_api", timeout=5)
    forms = [read_manifest(stage.artifacts, stage.artifact(version)).get("form") for version in fitted]
    assert forms == ["lightgbm", "onnx"]


def test_bytes_that_are_no_model_are_refused_as_such(artifacts) -> None:
    manifest = pack(artifacts, LogisticRegression().fit(NUMBERS, Y), X=NUMBERS, modules=[], requested_format="onnx", facts={})
    buffer = io.BytesIO(b"no model")
    with pytest.raises(ArtifactError, match="the model cannot be read as onnx: "):
        unpack(artifacts, replaced(artifacts, manifest, estimator=artifacts.put(buffer.getvalue())))
