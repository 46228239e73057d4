"""scikit-learn's own estimators need no trusted types; what runs code stays refused; what cannot be stored is refused before it is trained."""

import io
import json
import warnings
import zipfile

import numpy as np
import polars as pl
import pytest
import skops.io
from scipy.stats import randint, uniform
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RationalQuadratic
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, get_scorer, get_scorer_names, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    RepeatedStratifiedKFold,
    TimeSeriesSplit,
    TunedThresholdClassifierCV,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

import mlops_assets as ml
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.estimator_bytes import EstimatorBytes, dump_skops
from mlops_assets.serving.formats.serialisation import read_estimator, write_estimator
from mlops_assets.serving.formats.trusted_types import TRUSTED, refuse_lambdas, refuse_unknown_types
from tests.conftest import Runner

RNG = np.random.default_rng(0)
X = np.abs(RNG.normal(size=(90, 4)))
Y = (X[:, 0] > 0.6).astype(int)
FRAME = pl.DataFrame(X, schema=list("abcd"))
LINE, TREE = LogisticRegression(), DecisionTreeClassifier(random_state=0)
DATA: list[tuple] = [
    (X, Y),
    (X[:, 0], Y),
    (X, np.stack([Y, Y], axis=1)),
    (X, Y + 1),
    (["one two", "three four"] * 45, Y),
    (Y,),
    ([("a", "b")] * 90,),
    ([{"a": 1.0}] * 90,),
    (X @ X.T,),
]
NOT_HELD = {"Birch"}  # skops says so when it is written, and so do we
NOT_FITTED = {"FrozenEstimator", "SparseCoder"}  # they have no fit of their own


def back(estimator):
    return read_estimator(write_estimator(estimator, "skops", FRAME, ()), ())


def fitted(instance):
    for data in DATA:
        try:
            return instance.fit(*data)
        except Exception:  # noqa: BLE001, S112  (other data then: texts, one column, labels alone)
            continue
    return None


def test_every_estimator_of_scikit_learn_is_stored_without_trusted_types() -> None:
    from sklearn.utils._test_common.instance_generator import _construct_instances

    stored, unfitted = set(), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in all_estimators():
            if name in NOT_HELD | NOT_FITTED:
                continue
            estimator = fitted(next(iter(_construct_instances(make))))
            if estimator is None:
                unfitted.add(name)
                continue
            again = back(estimator)
            stored.add(name)
            if (
                hasattr(estimator, "predict")
                and name not in {"DummyClassifier", "IsotonicRegression"}
                and getattr(again, "n_features_in_", 0) == 4
            ):
                # The last bits of a BLAS product depend on where its arrays lie in memory.
                np.testing.assert_allclose(again.predict(X), estimator.predict(X), rtol=1e-10, atol=1e-12, err_msg=name)
    assert unfitted == set()
    assert len(stored) > 190
    assert {"RandomizedSearchCV", "HalvingGridSearchCV", "StackingRegressor", "SplineTransformer", "KBinsDiscretizer"} <= stored


@pytest.mark.parametrize(
    "estimator",
    [
        VotingClassifier([("a", LINE), ("b", TREE)], voting="soft"),
        StackingClassifier([("a", LINE), ("b", TREE)], cv=3),
        GridSearchCV(LINE, {"C": [0.1, 1]}, cv=TimeSeriesSplit(3), scoring="roc_auc"),
        GridSearchCV(LINE, {"C": [0.1, 1]}, scoring=make_scorer(f1_score)),
        RandomizedSearchCV(LINE, {"C": uniform(0.1, 1)}, n_iter=2, random_state=0, scoring=["roc_auc", "f1"], refit="f1"),
        make_pipeline(SplineTransformer(), RandomizedSearchCV(TREE, {"max_depth": randint(1, 4)}, n_iter=2, cv=RepeatedStratifiedKFold(n_repeats=2))),
        TunedThresholdClassifierCV(LINE, scoring="f1"),
        FixedThresholdClassifier(LINE, threshold=0.1),
        make_pipeline(SelectKBest(mutual_info_classif, k=2), LINE),
        KNeighborsClassifier(metric="manhattan", algorithm="kd_tree"),
        KNeighborsClassifier(metric="minkowski", p=3, algorithm="ball_tree"),
        GaussianProcessRegressor(RationalQuadratic()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_ensembles_searches_thresholds_and_splines_predict_the_same_when_read(estimator) -> None:
    estimator.fit(X, Y)
    np.testing.assert_array_equal(back(estimator).predict(X), estimator.predict(X))


def test_distributions_of_a_search_are_stored_as_text_and_the_estimator_keeps_its_own() -> None:
    search = RandomizedSearchCV(LINE, {"C": uniform(0.1, scale=2), "tol": [1e-4, 1e-3]}, n_iter=2, random_state=0).fit(X, Y)
    assert back(search).param_distributions == {"C": "uniform(0.1, scale=2)", "tol": [1e-4, 1e-3]}
    assert hasattr(search.param_distributions["C"], "rvs")


def test_a_frozen_distribution_in_an_artifact_stays_refused_because_its_state_is_run() -> None:
    data = skops.io.dumps(uniform(0.1, 1))
    with pytest.raises(ArtifactError, match="scipy.stats"):
        read_estimator(EstimatorBytes("skops", data), ())
    assert not [name for name in TRUSTED if name.startswith("scipy.stats")]


def test_an_artifact_that_names_its_own_trusted_types_is_not_believed() -> None:
    data = dump_skops(LINE.fit(X, Y))
    forged = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(forged, "w") as target:
        schema = json.loads(source.read("schema.json"))
        schema["__class__"], schema["__module__"], schema["trusted_types"] = "system", "os", ["os.system"]
        target.writestr("schema.json", json.dumps(schema))
    with pytest.raises(ArtifactError):
        read_estimator(EstimatorBytes("skops", forged.getvalue()), ())


def test_every_scorer_of_scikit_learn_may_be_a_part_of_a_search() -> None:
    functions = [get_scorer(name)._score_func for name in get_scorer_names()]
    assert {f"{f.__module__}.{f.__name__}" for f in functions} <= TRUSTED


def test_a_lambda_is_refused_with_a_hint_that_can_be_followed() -> None:
    def local(values):
        return values

    for function in (lambda values: values, local):
        pipeline = make_pipeline(FunctionTransformer(function), LINE).fit(X, Y)
        with pytest.raises(ArtifactError, match="cannot be imported by its name\nHint: move it to a named function in a module"):
            back(pipeline)
    named = make_pipeline(FunctionTransformer(squares), LINE).fit(X, Y)
    with pytest.raises(ArtifactError, match=r"trusted_types=\['tests.serving.formats.test_trusted_types.squares'\]"):
        back(named)
    again = read_estimator(write_estimator(named, "skops", FRAME, [f"{__name__}.squares"]), [f"{__name__}.squares"])
    np.testing.assert_array_equal(again.predict(X), named.predict(X))


def squares(values):
    return np.square(values)


def test_trusted_types_and_lambdas_are_checked_before_anything_is_trained() -> None:
    refuse_unknown_types([f"{__name__}.squares", "sklearn.pipeline.Pipeline"], "'model/m'")
    with pytest.raises(
        ArtifactError, match=r"'model/m' trusts the type 'tests.serving.formats.test_trusted_types.squres', which does not exist"
    ):
        refuse_unknown_types([f"{__name__}.squres"], "'model/m'")
    with pytest.raises(ArtifactError, match="move it to a named function"):
        refuse_unknown_types(["definitions.<lambda>"], "'model/m'")

    def trains(train):
        return make_pipeline(FunctionTransformer(lambda values: values), LINE).fit(train.X, train.y)

    with pytest.raises(ArtifactError, match=r"'model/m' passes a lambda to FunctionTransformer in line \d+"):
        refuse_lambdas(trains, "'model/m'")
    refuse_lambdas(squares, "'model/m'")


def test_a_threshold_over_a_grid_search_needs_nothing_and_a_lambda_costs_no_training(platform, instance) -> None:
    @ml.dataset(key="id")
    def things() -> pl.DataFrame:
        rng = np.random.default_rng(1)
        x = rng.normal(size=400)
        return pl.DataFrame({"id": range(400), "x": x, "z": rng.normal(size=400), "y": (x + rng.normal(size=400) > 0).astype(int)})

    @ml.training_set(columns=["x", "z"], label="y", split=ml.GroupSplit("id"))
    def learned(things: pl.DataFrame) -> pl.DataFrame:
        return things

    @ml.model(training_set=learned, metrics=["roc_auc"])
    def meta(train: ml.Split) -> TunedThresholdClassifierCV:
        search = RandomizedSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": randint(1, 4)}, n_iter=2, random_state=0, cv=3)
        return TunedThresholdClassifierCV(search, scoring="f1", cv=3, random_state=0).fit(train.X, train.y)

    @ml.model(training_set=learned, metrics=["roc_auc"])
    def nameless(train: ml.Split) -> object:
        raise AssertionError("it is not trained: " + str(make_pipeline(FunctionTransformer(lambda values: values), train)))

    runner = Runner(ml.build_definitions([things, learned, meta, nameless], platform=platform), instance)
    runner("dataset/things", "training_set/learned", "model/meta", "version/meta", "champion/meta")
    assert "passes a lambda to FunctionTransformer" in runner.error("model/nameless")
