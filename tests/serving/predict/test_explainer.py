"""SHAP values sum to the prediction minus the base, for any model, on the scale of its predictions."""

import sys
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlops_assets.errors import MissingExtraError
from mlops_assets.serving.predict.explainer import MAX_EXPLAINED_ROWS, ShapExplainer, ShapValues
from mlops_assets.serving.predict.predictor import list_columns, make_predictor
from mlops_assets.serving.predict.request_schema import RequestError
from tests.serving.support import estimator

pytestmark = pytest.mark.skipif(not find_spec("shap"), reason="shap is not installed")

RANDOM = np.random.default_rng(0)
X = pl.DataFrame({"temp": RANDOM.normal(size=300), "wind": RANDOM.gamma(2, 1, 300), "noise": RANDOM.normal(size=300)}).with_columns(
    carrier=pl.Series(RANDOM.choice(["AA", "UA", "DL"], 300).tolist())
)
NUMBERS = X.drop("carrier")
SCORE = X["temp"].to_numpy() * X["wind"].to_numpy()
ENCODE = make_column_transformer((OneHotEncoder(), ["carrier"]), (StandardScaler(), ["temp", "wind", "noise"]))
MODELS = {
    "a regressor": (HistGradientBoostingRegressor(max_iter=20), NUMBERS, SCORE),
    "a classifier": (RandomForestClassifier(10, random_state=0), NUMBERS, SCORE > 0),
    "a classifier of three": (
        HistGradientBoostingClassifier(max_iter=5),
        NUMBERS,
        np.array(["low", "mid", "top"])[np.digitize(SCORE, [-1, 1])],
    ),
    "a pipeline": (make_pipeline(ENCODE, HistGradientBoostingClassifier(max_iter=20)), X, SCORE > 0),
}


def explainer(model: object, rows: pl.DataFrame, **more) -> ShapExplainer:
    probe = rows.head(64)
    return ShapExplainer(make_predictor(model, probe, **more), probe, classifier=hasattr(model, "classes_"))


@pytest.mark.parametrize("name", MODELS)
def test_the_values_of_a_row_sum_to_its_prediction_minus_the_base(name: str) -> None:
    model, rows, y = MODELS[name]
    fitted = model.fit(rows, y)
    asked = rows[100:105]
    found = explainer(fitted, rows)(list_columns(asked), 5)
    assert found.values.shape == (5, rows.width)
    assert found.bases + found.values.sum(axis=1) == pytest.approx(found.outputs, abs=1e-9)
    if not hasattr(fitted, "classes_"):
        assert found.classes is None
        assert found.outputs == pytest.approx(fitted.predict(asked))
        return
    shares, names = fitted.predict_proba(asked), [str(value) for value in fitted.classes_]
    assert found.outputs == pytest.approx([row[names.index(chosen)] for row, chosen in zip(shares, found.classes, strict=True)])
    assert found.classes == (["True"] * 5 if len(names) == 2 else [names[i] for i in shares.argmax(axis=1)])
    assert np.abs(found.values).mean(axis=0)[rows.columns.index("noise")] < np.abs(found.values).mean(axis=0)[0]


def test_the_values_of_a_linear_model_are_its_weights_times_the_distance_from_the_mean() -> None:
    fitted = LinearRegression().fit(NUMBERS, 3 * X["temp"].to_numpy() - X["wind"].to_numpy())
    asked = NUMBERS[200:210]
    found = explainer(fitted, NUMBERS)(list_columns(asked), 10)
    assert found.values == pytest.approx((asked.to_numpy() - NUMBERS.head(64).to_numpy().mean(axis=0)) * fitted.coef_, abs=1e-9)


def test_nulls_and_the_declared_positive_class_are_explained_and_repeatable() -> None:
    fitted, rows = estimator()
    explain = explainer(fitted, rows, positive=False)
    columns = list_columns(rows.tail(4).with_columns(wind=pl.lit(None, dtype=pl.Float64)))
    first, again = explain(columns, 4), explain(columns, 4)
    assert (first.values == again.values).all()
    assert first.classes == ["False"] * 4
    assert first.bases + first.values.sum(axis=1) == pytest.approx(first.outputs, abs=1e-9)


def test_too_many_rows_and_classes_without_probabilities_are_refused() -> None:
    fitted = LinearRegression().fit(NUMBERS, SCORE)
    with pytest.raises(RequestError, match="are too many to explain") as refused:
        explainer(fitted, NUMBERS).check_rows(MAX_EXPLAINED_ROWS + 1)
    assert refused.value.status == 413
    probe = NUMBERS.head(64)
    with pytest.raises(RequestError, match="classes without probabilities\nHint: train a model with predict_proba"):
        ShapExplainer(make_predictor(fitted, probe), probe, classifier=True).check_rows(1)


def test_a_version_without_reference_rows_is_refused_with_a_hint_about_its_rows() -> None:
    fitted = LinearRegression().fit(NUMBERS, SCORE)
    with pytest.raises(RequestError, match="no reference rows\nHint: train a new version on a training set with rows"):
        ShapExplainer(make_predictor(fitted, NUMBERS.head(64)), NUMBERS.clear(), classifier=False).check_rows(1)


def test_without_the_library_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    explain = explainer(LinearRegression().fit(NUMBERS, SCORE), NUMBERS)
    with pytest.raises(MissingExtraError, match=r"shap is not installed\nHint: pip install 'mlops_assets\[explain\]'"):
        explain(list_columns(NUMBERS.head(1)), 1)


@pytest.mark.parametrize("name", MODELS)
def test_one_order_of_the_columns_and_several_parts_give_nearly_the_same_values(name: str) -> None:
    model, rows, y = MODELS[name]
    explain, asked = explainer(model.fit(rows, y), rows), rows[100:120]
    whole = explain(list_columns(asked), 20)
    joined = ShapValues.join([explain(list_columns(part), part.height, permutations=1) for part in asked.iter_slices(8)])
    assert joined.outputs == pytest.approx(whole.outputs)
    assert joined.bases == pytest.approx(whole.bases)
    assert joined.classes == whole.classes
    assert joined.bases + joined.values.sum(axis=1) == pytest.approx(joined.outputs, abs=1e-9)
    sizes = [np.abs(found.values).mean(axis=0) for found in (whole, joined)]
    assert sizes[1] == pytest.approx(sizes[0], abs=0.2 * sizes[0].max())
