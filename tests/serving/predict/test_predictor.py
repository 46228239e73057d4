"""The compiled predictor agrees with the estimator, refuses what it refuses, or is not used."""

import copy
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler, TargetEncoder
from sklearn.tree import DecisionTreeClassifier

from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.serving.formats.argmax import count_non_argmax_rows, may_predict_argmax
from mlops_assets.serving.predict import predictor as module
from mlops_assets.serving.predict.final_estimator import BoostedTrees
from mlops_assets.serving.predict.predictor import Predictor, ScoringPath, find_disagreement, limit_threads, list_columns, make_predictor
from mlops_assets.serving.predict.request_schema import RequestError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")

N = 600
TEXT, NUMBERS, CODES = ["carrier", "origin"], ["distance", "temp", "wind"], ["hour", "wet", "gate"]
TYPES = {
    "carrier": pl.String,
    "origin": pl.String,
    "distance": pl.Int64,
    "temp": pl.Float64,
    "wind": pl.Float64,
    "hour": pl.Int8,
    "wet": pl.Boolean,
    "gate": pl.Int64,
}


def frame(n: int = N, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)

    def some_null(values: list, share: float) -> list:
        return [None if rng.random() < share else v for v in values]

    values = {
        "carrier": some_null(rng.choice(list("ABCDEFG"), n).tolist(), 0.1),
        "origin": rng.choice(["EWR", "JFK", "LGA"], n).tolist(),
        "distance": rng.integers(50, 5000, n).tolist(),
        "temp": some_null(rng.normal(10, 5, n).tolist(), 0.1),
        "wind": rng.random(n).tolist(),
        "hour": rng.integers(0, 24, n).tolist(),
        "wet": rng.choice([True, False], n).tolist(),
        "gate": some_null(rng.integers(1, 6, n).tolist(), 0.1),
    }
    return pl.DataFrame([pl.Series(name, v, dtype=TYPES[name]) for name, v in values.items()])


X = frame()
_LATE = (X["temp"].fill_null(10).to_numpy() + 4 * X["wet"].to_numpy() + np.random.default_rng(1).normal(size=N)) > 12
LABELS = {"two": _LATE, "words": np.array(["on time", "late"])[_LATE.astype(int)], "three": X["origin"].to_numpy()}
TARGET = X["distance"].to_numpy() / 1000 + X["wind"].to_numpy()


def compiled(fitted, rows: pl.DataFrame) -> Predictor:
    made = make_predictor(fitted, rows.gather_every(max(1, rows.height // 40)).head(40), predicts_argmax=True)
    assert made.description == "compiled"
    return made


def assert_agrees(made: Predictor, fitted, rows: pl.DataFrame) -> None:
    scores = made(list_columns(rows), rows.height)
    if hasattr(fitted, "predict_proba"):
        shares = fitted.predict_proba(rows)
        assert scores.predictions == fitted.predict(rows).tolist()
        np.testing.assert_allclose(made.path.scores(made.path.prepare(list_columns(rows), rows.height)), shares, atol=1e-9)
        assert (scores.positive is None) == (shares.shape[1] != 2)
        assert [list(row) for row in scores.probabilities] == [[str(c) for c in fitted.classes_.tolist()]] * rows.height
    else:
        np.testing.assert_allclose(scores.predictions, fitted.predict(rows), rtol=1e-9)


ordinal = st.builds(
    OrdinalEncoder,
    handle_unknown=st.just("use_encoded_value"),
    unknown_value=st.sampled_from([-1, np.nan]),
    encoded_missing_value=st.sampled_from([np.nan, -2]),
    min_frequency=st.sampled_from([None, 60]),
)
onehot = st.builds(
    OneHotEncoder,
    handle_unknown=st.sampled_from(["ignore", "infrequent_if_exist", "error"]),
    sparse_output=st.booleans(),
    drop=st.sampled_from([None, "if_binary"]),
    min_frequency=st.sampled_from([None, 60]),
)
mode = st.sampled_from(["most_frequent", "constant"]).map(
    lambda s: SimpleImputer(strategy=s, **({"fill_value": "?"} if s == "constant" else {}))
)
imputer = st.builds(SimpleImputer, strategy=st.sampled_from(["mean", "median", "constant"]), add_indicator=st.booleans())
texts = st.one_of(ordinal, onehot, st.builds(make_pipeline, mode, st.one_of(ordinal, onehot)))
numbers = st.one_of(
    st.just("passthrough"),
    st.builds(StandardScaler, with_mean=st.booleans()),
    imputer,
    st.builds(make_pipeline, imputer, st.just(StandardScaler())),
)
codes = st.one_of(st.just("passthrough"), onehot, ordinal)


@st.composite
def column_transformers(draw):
    blocks = [(draw(texts), TEXT), (draw(numbers), NUMBERS), (draw(codes), CODES)]
    chosen = draw(st.permutations(blocks))[: draw(st.integers(1, 3))]
    rest_is_numbers = any(columns == TEXT for _, columns in chosen)
    remainder = draw(st.sampled_from(["drop", "passthrough"])) if rest_is_numbers else "drop"
    return make_column_transformer(
        *((copy.deepcopy(t), c) for t, c in chosen), remainder=remainder, sparse_threshold=draw(st.sampled_from([0.0, 0.3]))
    )


FINALS = {
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=5, early_stopping=False),
    "logistic": lambda: LogisticRegression(max_iter=50),
    "tree": lambda: DecisionTreeClassifier(max_depth=4),
    "boosted numbers": lambda: HistGradientBoostingRegressor(max_iter=8, max_leaf_nodes=5),
    "line": LinearRegression,
    "ridge": Ridge,
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=column_transformers(), final=st.sampled_from(sorted(FINALS)), label=st.sampled_from(sorted(LABELS)), data=st.data())
def test_every_pipeline_agrees_or_is_not_compiled(before, final, label, data) -> None:
    last = FINALS[final]()
    takes_nulls = final in ("boosting", "boosted numbers", "tree")
    fitted = make_pipeline(before, *([] if takes_nulls else [SimpleImputer(), StandardScaler()]), last)
    try:
        fitted.fit(X, TARGET if hasattr(last, "score") and not hasattr(last, "predict_proba") else LABELS[label])
    except (ValueError, TypeError):
        return  # scikit-learn itself refuses the combination, e.g. a dense model on a sparse matrix
    made = make_predictor(fitted, X.gather_every(15), predicts_argmax=data.draw(st.booleans()))
    rows = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=50))
    picked = frame(100, seed=7)[rows]
    assert_agrees(made, fitted, picked) if made.description == "compiled" else pytest.fail(made.description)


NAMED = {
    "categories inside boosting": HistGradientBoostingClassifier(max_iter=8, categorical_features=TEXT),
    "coded categories inside boosting": make_pipeline(
        make_column_transformer((OrdinalEncoder(), TEXT), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=8, categorical_features=[0, 1]),
    ),
    "search": GridSearchCV(
        make_pipeline(make_column_transformer((OneHotEncoder(), TEXT)), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2
    ),
    "forest": make_pipeline(
        make_column_transformer((TargetEncoder(), TEXT), ("passthrough", NUMBERS)), RandomForestClassifier(5, n_jobs=-1)
    ),
    "nested": make_pipeline(
        make_column_transformer(
            (make_column_transformer((OneHotEncoder(), ["origin"]), remainder="passthrough"), ["wind", "origin"]),
            (StandardScaler(), ["distance"]),
        ),
        PCA(2),
        LogisticRegression(),
    ),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("label", LABELS)
def test_named_kinds_of_models_are_compiled(name, label) -> None:
    fitted = copy.deepcopy(NAMED[name]).fit(X, LABELS[label])
    assert_agrees(compiled(fitted, X), fitted, frame(80, seed=3))


def test_bare_estimators_on_numbers_are_compiled() -> None:
    rows = X.select(NUMBERS + CODES)
    for fitted in (
        HistGradientBoostingRegressor(max_iter=8).fit(rows, TARGET),
        HistGradientBoostingRegressor(loss="poisson", max_iter=8).fit(rows, TARGET),
        make_pipeline(SimpleImputer(), PolynomialFeatures(2), StandardScaler(), Ridge()).fit(rows, TARGET),
        VotingClassifier([("a", HistGradientBoostingClassifier(max_iter=3)), ("b", DecisionTreeClassifier(max_depth=3))]).fit(rows, _LATE),
        make_pipeline(SimpleImputer(), GradientBoostingRegressor(n_estimators=5)).fit(rows, TARGET),
    ):
        assert_agrees(compiled(fitted, rows), fitted, frame(80, seed=3).select(rows.columns))


def test_an_unknown_category_is_refused_where_the_estimator_refuses_it() -> None:
    fitted = make_pipeline(make_column_transformer((OneHotEncoder(), TEXT)), LogisticRegression()).fit(X, _LATE)
    made = compiled(fitted, X)
    columns = list_columns(X.head(2))
    columns[0] = ["A", "a secret"]
    with pytest.raises(ValueError, match="unknown categories"):
        fitted.predict_proba(X.head(2).with_columns(carrier=pl.Series(["A", "a secret"])))
    with pytest.raises(RequestError, match="column 'carrier' holds a category that the model does not know") as caught:
        made(columns, 2)
    assert b"secret" not in caught.value.body
    assert caught.value.status == 422


def test_a_null_is_refused_where_the_estimator_refuses_it() -> None:
    rows = X.select("distance", "wind")
    for final in (LinearRegression().fit(rows, TARGET), LogisticRegression(max_iter=300).fit(rows, _LATE)):
        with pytest.raises(RequestError):
            compiled(final, rows)([[1], [None]], 1)


class Odd(TransformerMixin, BaseEstimator):
    """Knows names."""

    def fit(self, X, y=None):  # noqa: ARG002
        self.fitted_ = True
        return self

    def transform(self, X):
        return X.select("distance", "wind").to_numpy()


def test_what_is_not_recognised_is_served_by_the_estimator_itself() -> None:
    fitted = make_pipeline(Odd(), LinearRegression()).fit(X, TARGET)
    made = make_predictor(fitted, X.head(40))
    assert made.description == "native (Odd takes the column 'carrier', which is String)"
    assert_agrees(made, fitted, X.head(5))
    words = make_pipeline(FunctionTransformer(lambda f: f.select("distance").to_numpy()), LinearRegression()).fit(X, TARGET)
    assert make_predictor(words, X.head(40)).description.startswith("native (")


def test_float32_is_not_compiled_when_it_matters() -> None:
    rows = X.select(pl.col("distance", "wind").cast(pl.Float32))
    fitted = make_pipeline(StandardScaler(), LinearRegression()).fit(rows, TARGET)
    made = make_predictor(fitted, rows.head(40))
    assert_agrees(made, fitted, rows.tail(50))


def test_a_compiled_form_that_is_wrong_is_found_and_not_used(monkeypatch) -> None:
    fitted = make_pipeline(
        make_column_transformer((OrdinalEncoder(), TEXT), remainder="passthrough"), HistGradientBoostingClassifier(max_iter=8)
    ).fit(X, _LATE)
    right = BoostedTrees.__call__
    for wrong in (lambda s, m: right(s, m) + 1e-6, lambda s, m: right(s, np.nan_to_num(m)), lambda s, m: right(s, m[:, ::-1].copy())):
        monkeypatch.setattr(BoostedTrees, "__call__", wrong)
        made = make_predictor(fitted, X.head(64))
        assert made.description == "compiled"  # by the estimator's own predict_proba on the matrix
        assert_agrees(made, fitted, X.tail(50))
    monkeypatch.setattr(
        module, "_compile_path", lambda *_, **__: ScoringPath(lambda _, count: count, lambda count: np.full((count, 2), 0.5))
    )
    assert make_predictor(fitted, X.head(64)).description == "native (the compiled form differs on a probe row)"


def test_a_form_that_answers_what_the_estimator_refuses_is_found() -> None:
    def refuses(columns, count):
        if any(value is None for column in columns for value in column):
            raise ValueError
        return np.zeros(count)

    asked, probe = ScoringPath(refuses, np.asarray), X.select("distance", "wind").head(20)
    assert find_disagreement(asked, asked, probe) == ""
    always = ScoringPath(lambda _, count: np.zeros(count), np.asarray)
    assert find_disagreement(asked, always, probe) == "the compiled form differs on an edge-case row"
    assert find_disagreement(asked, asked, probe.clear()) == "there are no probe rows to verify the compiled form on"


class Cautious(LogisticRegression):
    """Says yes where it is not quite as likely as no."""

    def predict(self, X):
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.25).astype(int)]


def cautious_forms() -> dict:
    few = FixedThresholdClassifier(LogisticRegression(), threshold=0.25, pos_label=True)
    many = FixedThresholdClassifier(make_pipeline(StandardScaler(), LogisticRegression()), threshold=0.25, pos_label=True)
    last = make_pipeline(
        SimpleImputer(), FixedThresholdClassifier(HistGradientBoostingClassifier(max_iter=40), threshold=0.25, pos_label=True)
    )
    return {"threshold": few, "threshold of a pipeline": many, "threshold after a step": last, "of the project": Cautious()}


@pytest.mark.parametrize("likeliest", [True, False])
@pytest.mark.parametrize("name", sorted(cautious_forms()))
def test_an_estimator_that_does_not_predict_the_likeliest_class_is_asked(name, likeliest) -> None:
    rows = X.select("distance", "hour", "wet")
    fitted = cautious_forms()[name].fit(rows, _LATE)
    made = make_predictor(fitted, rows.head(40), predicts_argmax=likeliest)
    scores = made(list_columns(rows), rows.height)
    assert scores.predictions == fitted.predict(rows).tolist()
    assert scores.predictions != fitted.classes_[fitted.predict_proba(rows).argmax(axis=1)].tolist()
    one = [column[:1] for column in list_columns(rows)]
    assert made(one, 1).predictions == fitted.predict(rows.head(1)).tolist()


def test_a_threshold_that_no_row_shows_is_asked_all_the_same() -> None:
    rows = X.select("distance", "wind")
    fitted = FixedThresholdClassifier(LogisticRegression(), threshold=0.5 + 1e-9, pos_label=True).fit(rows, _LATE)
    assert count_non_argmax_rows(CachedPredictor(fitted, rows)) == 0
    assert not may_predict_argmax(fitted)
    assert not may_predict_argmax(make_pipeline(StandardScaler(), Cautious()).fit(rows, _LATE))
    assert may_predict_argmax(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, _LATE))
    assert make_predictor(fitted, rows.head(40), predicts_argmax=True).path.labels is not None


class Growing(LinearRegression):
    """Predicts no finite number where a distance is large."""

    def predict(self, X):
        with np.errstate(over="ignore"):
            return np.exp(super().predict(X))


def test_a_row_without_a_finite_prediction_is_refused_by_its_number() -> None:
    rows = X.select("distance")
    fitted = Growing().fit(rows, np.log(rows["distance"].to_numpy()))
    made = make_predictor(fitted, rows.head(40))
    with pytest.raises(RequestError, match="the model has no finite prediction for row 1") as found:
        made([[500, 10_000_000, 600, 20_000_000]], 4)
    assert (found.value.status, found.value.where, found.value.count) == (422, {"row": 1}, 2)
    assert np.isfinite(made([[500, 600]], 2).predictions).all()


def test_the_probability_is_that_of_the_positive_class() -> None:
    rows = X.select("distance", "wind")
    fitted = LogisticRegression().fit(rows, LABELS["words"])
    for positive, at in (("late", 0), ("on time", 1), (None, 1)):
        scores = make_predictor(fitted, rows.head(40), predicts_argmax=True, positive=positive)(list_columns(rows), rows.height)
        np.testing.assert_allclose(scores.positive, fitted.predict_proba(rows)[:, at], atol=1e-9)
        assert list(scores.probabilities[0]) == ["late", "on time"]


def test_only_an_estimator_without_the_proof_is_asked_twice() -> None:
    rows = X.select("distance", "wind")
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, _LATE)
    assert make_predictor(fitted, rows.head(40), predicts_argmax=True).path.labels is None
    assert make_predictor(fitted, rows.head(40)).path.labels is not None


@pytest.mark.parametrize("rows", [1, 2, 31, 33, 100])
def test_trees_at_once_and_one_by_one_agree(rows) -> None:
    matrix = frame(rows, seed=5).select(NUMBERS).to_numpy().astype(float)
    matrix[0, 1] = np.nan
    three = np.random.default_rng(0).integers(0, 3, N)
    fitted = HistGradientBoostingClassifier(max_iter=10).fit(X.select(NUMBERS).to_numpy().astype(float), three)
    np.testing.assert_allclose(BoostedTrees(fitted)(matrix), fitted._raw_predict(matrix), atol=1e-12)
    matrix[0, 0] = np.inf
    np.testing.assert_allclose(BoostedTrees(fitted)(matrix), fitted._raw_predict(matrix), atol=1e-12)


def test_a_split_between_missing_and_not_is_kept() -> None:
    values = np.where(np.arange(200) % 2 == 0, np.nan, np.arange(200.0))[:, None]
    fitted = HistGradientBoostingRegressor(max_iter=5).fit(values, np.isnan(values[:, 0]).astype(float))
    for value in (np.nan, 1e308, -1e308, math.inf, -math.inf, 0.0):
        one = np.array([[value]])
        np.testing.assert_allclose(BoostedTrees(fitted)(one)[:, 0], fitted.predict(one), atol=1e-12)


def test_models_use_one_thread() -> None:
    forest = make_pipeline(SimpleImputer(), RandomForestClassifier(3, n_jobs=-1))
    limit_threads(forest)
    assert forest.get_params()["randomforestclassifier__n_jobs"] == 1


def test_no_rows_are_no_predictions() -> None:
    fitted = LinearRegression().fit(X.select("distance"), TARGET)
    assert compiled(fitted, X.select("distance"))([[]], 0).predictions == []


def test_times_reach_the_native_estimator_as_times() -> None:
    times = pl.DataFrame(
        {"at": pl.datetime_range(pl.datetime(2013, 1, 1), pl.datetime(2013, 1, 3), "1h", time_zone="UTC", time_unit="ms", eager=True)}
    )
    hours = FunctionTransformer(hour_of)
    fitted = make_pipeline(hours, LinearRegression()).fit(times, np.arange(times.height) % 24)
    made = make_predictor(fitted, times.head(30))
    assert made.description.startswith("native")
    assert made([[7 * 3_600_000_000]], 1).predictions == pytest.approx([7.0])


def hour_of(frame: pl.DataFrame) -> np.ndarray:
    return frame.select(pl.col("at").dt.hour()).to_numpy()
