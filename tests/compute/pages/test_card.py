"""The figures of a model card are scikit-learn's and scipy's own, and whatever a project calls its columns is shown as it is."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_diabetes, load_iris, make_classification
from sklearn.inspection import permutation_importance as theirs
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import brier_score_loss, get_scorer
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

from mlops_assets.compute.features.signature import MAX_CATEGORIES, MIN_ROWS, describe_signature, describe_values
from mlops_assets.compute.pages.card import Card, CardTable, Section
from mlops_assets.compute.pages.card_charts import draw_importance
from mlops_assets.compute.pages.card_forms import render_html, render_markdown
from mlops_assets.compute.pages.card_sections import importance_section
from mlops_assets.compute.training.importance import MAX_COLUMNS, ColumnImportance, PermutationImportance, permutation_importance
from mlops_assets.compute.training.probabilities import BINARY, MULTICLASS, REGRESSION, assess_predictions, detect_task
from mlops_assets.compute.training.resampling import PairedIntervals
from mlops_assets.compute.training.responses import CachedPredictor
from tests.browser import browser_page

NASTY = "<img src=x onerror='window.ran=1'>\"; DROP TABLE runs; -- | @team #12 `code` **b** __b__ ~~s~~ [a](javascript:alert(1)) &lt; $x$\n# new"


def frame(X: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({f"x{i}": X[:, i] for i in range(X.shape[1])})


@pytest.fixture(scope="module")
def binary():
    X, y = make_classification(3000, 6, n_informative=3, n_redundant=0, random_state=3, shift=0.4, class_sep=0.6)
    return LogisticRegression().fit(frame(X[:2000]), y[:2000]), frame(X[2000:]), y[2000:]


def test_the_brier_score_and_the_curve_are_those_of_scikit_learn(binary) -> None:
    estimator, X, y = binary
    found = assess_predictions(CachedPredictor(estimator, X), detect_task(estimator), y)
    predicted = estimator.predict_proba(X)[:, 1]
    assert (found.kind, found.positive) == (BINARY, "1")
    assert found.brier == pytest.approx(brier_score_loss(y, predicted), rel=1e-12)
    observed, mean = calibration_curve(y, predicted, n_bins=10, strategy="quantile")
    assert [b.predicted for b in found.calibration.bins] == pytest.approx(mean)
    assert [b.observed for b in found.calibration.bins] == pytest.approx(observed)
    rows = [b.rows for b in found.calibration.bins]
    assert found.calibration.error == pytest.approx(np.average(np.abs(mean - observed), weights=rows))


def test_labels_that_are_words_have_the_second_class_looked_at(binary) -> None:
    _, X, y = binary
    words = np.array(["no", "yes"], dtype=object)[y]
    estimator = LogisticRegression().fit(X, words)
    found = assess_predictions(CachedPredictor(estimator, X), detect_task(estimator), words)
    assert found.positive == "yes"
    assert found.brier == pytest.approx(brier_score_loss(words, estimator.predict_proba(X)[:, 1], pos_label="yes"))


def test_of_several_classes_the_predicted_one_is_held_against_what_came() -> None:
    X, y = load_iris(return_X_y=True)
    estimator = GaussianNB().fit(frame(X[::2]), y[::2])
    found = assess_predictions(CachedPredictor(estimator, frame(X)), detect_task(estimator), y)
    shares = estimator.predict_proba(frame(X))
    assert found.kind == MULTICLASS
    assert found.brier == pytest.approx(np.mean(np.sum((shares - np.eye(3)[y]) ** 2, axis=1)))
    assert found.brier == pytest.approx(brier_score_loss(y, shares, scale_by_half=False))
    observed, mean = calibration_curve(shares.argmax(axis=1) == y, shares.max(axis=1), n_bins=10, strategy="quantile")
    assert [b.observed for b in found.calibration.bins] == pytest.approx(observed)
    assert [b.predicted for b in found.calibration.bins] == pytest.approx(mean)


def test_numbers_are_compared_in_units_of_the_label_and_margins_are_no_probabilities(binary) -> None:
    X, y = load_diabetes(return_X_y=True)
    estimator = LinearRegression().fit(frame(X), y)
    found = assess_predictions(CachedPredictor(estimator, frame(X)), detect_task(estimator), y)
    assert (found.kind, found.brier) == (REGRESSION, None)
    assert np.average([b.predicted for b in found.calibration.bins], weights=[b.rows for b in found.calibration.bins]) == pytest.approx(
        y.mean()
    )
    _, X2, y2 = binary
    margins = LinearSVC().fit(X2, y2)
    assert assess_predictions(CachedPredictor(margins, X2), detect_task(margins), y2) is None


@pytest.mark.parametrize("metric", ["roc_auc", "neg_log_loss", "accuracy"])
def test_importance_is_that_of_scikit_learn(binary, metric) -> None:
    estimator, X, y = binary
    # Their draws are others: means of many shuffles are compared, within four standard errors of either.
    reference = theirs(estimator, X.to_pandas(), y, scoring=metric, n_repeats=60, random_state=1)
    found = permutation_importance(estimator, X, y, metric, "digest", repeats=60)
    assert found.rows == len(y)
    for one in found.columns:
        i = X.columns.index(one.column)
        error = math.hypot(one.error, reference.importances_std[i]) / math.sqrt(60)
        assert abs(one.drop - reference.importances_mean[i]) <= 4 * error + 1e-12
        assert one.error == pytest.approx(reference.importances_std[i], rel=0.5, abs=1e-12)
    assert [one.drop for one in found.columns] == sorted((one.drop for one in found.columns), reverse=True)


def test_importance_of_a_straight_line_is_known() -> None:
    X = np.random.default_rng(0).normal(size=(2000, 3))
    y = X @ np.array([3.0, 1.0, 0.0])
    found = permutation_importance(LinearRegression().fit(frame(X), y), frame(X), y, "neg_mean_squared_error", "s", repeats=40)
    known = {one.column: one.drop for one in found.columns}
    for i, weight in enumerate((3.0, 1.0, 0.0)):
        assert known[f"x{i}"] == pytest.approx(2 * weight**2 * X[:, i].var(), rel=0.03, abs=1e-9)


def test_a_column_that_the_model_does_not_read_is_worth_nothing_at_all(binary) -> None:
    _, X, y = binary
    estimator = LogisticRegression().fit(X.with_columns(idle=pl.lit(0.0)), y)
    found = permutation_importance(estimator, X.with_columns(idle=pl.lit(0.0)), y, "roc_auc", "a")
    assert [(one.drop, one.error) for one in found.columns if one.column == "idle"] == [(0.0, 0.0)]


def test_importance_is_the_same_when_it_is_read_back() -> None:
    columns = (ColumnImportance("price", 0.25, 0.125), ColumnImportance("odd", math.nan, math.nan))
    found = PermutationImportance("roc_auc", 2_000, columns, left_out=3)
    read = PermutationImportance.from_json(json.loads(json.dumps(found.as_json(), allow_nan=False)))
    assert repr(read) == repr(found)


def test_importance_is_bounded_and_the_same_for_the_same_seed(binary) -> None:
    estimator, X, y = binary
    asked = []

    class Counting:
        classes_ = estimator.classes_

        def __sklearn_tags__(self):
            return estimator.__sklearn_tags__()

        def predict_proba(self, rows):
            asked.append(len(rows))
            return estimator.predict_proba(rows)

    one, again, other = (permutation_importance(Counting(), X, y, "roc_auc", seed, max_rows=300) for seed in ("a", "a", "b"))
    assert one == again != other
    assert one.rows == 300
    assert max(asked) == 300 * 5
    assert len(asked) == 3 * (1 + X.width)
    wide = X.with_columns(**{f"n{i}": pl.lit(0.0) for i in range(MAX_COLUMNS)})

    class Wide(Counting):
        def predict_proba(self, rows):
            return super().predict_proba(rows.select(X.columns))

    asked.clear()
    found = permutation_importance(Wide(), wide, y, "roc_auc", "a")
    assert (len(found.columns), found.left_out) == (MAX_COLUMNS, X.width)
    assert sum(asked) <= 450_000


def test_an_undefined_metric_is_reported_and_not_drawn(binary) -> None:
    estimator, X, y = binary
    found = permutation_importance(estimator, X, np.zeros(len(y), dtype=int), "roc_auc", "a")
    section = importance_section(found)
    assert section.problems == ("roc_auc is undefined on these rows.",)
    assert section.chart == "" == draw_importance([])
    assert {row[1] for row in section.tables[0].rows} == {"–"}


@pytest.mark.parametrize("metric", ["roc_auc", "f1", "accuracy"])
def test_the_intervals_are_those_of_scipy(binary, metric) -> None:
    estimator, X, y = binary
    answers = CachedPredictor(estimator, X)
    low, high = PairedIntervals(answers, None, y, X, "digest").value(metric)
    scorer = get_scorer(metric)
    theirs = stats.bootstrap(
        (np.arange(len(y)),),
        lambda rows: scorer(answers, rows.astype(int), y[rows.astype(int)]),
        n_resamples=1000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.12 * width)
    assert high == pytest.approx(theirs.high, abs=0.12 * width)


def test_a_column_is_described_without_rare_values() -> None:
    many = [f"city{i % (MAX_CATEGORIES + 3)}" for i in range(200)]
    rare = ["often"] * (200 - MIN_ROWS + 1) + [f"grace{i}@home" for i in range(MIN_ROWS - 1)]
    X = pl.DataFrame(
        {
            "number": [float("nan"), None, -1.5, 1e9, *([0.0] * 196)],
            "whole": range(200),
            "rare": rare,
            "many": many,
            "flag": [True] * 150 + [None] * 50,
            "empty": pl.Series([None] * 200, dtype=pl.String),
            "mails": [f"{i}@home" for i in range(200)],
        }
    )
    signature = json.loads(json.dumps(describe_signature(X)))
    seen = {row["column"]: (describe_values(row), row["nulls"]) for row in signature}
    assert (*seen["number"], signature[0]["dtype"]) == ("-1.5 … 1e+09", 0.005, "Float64")
    assert seen["whole"][0] == "0 … 199"
    assert seen["rare"][0] == f"often and {MIN_ROWS - 1} more"
    assert seen["many"][0].endswith(" and 3 more")
    assert seen["flag"] == ("True", 0.25)
    assert seen["empty"][0] == "only nulls"
    assert seen["mails"][0] == "200 different values"
    assert "@home" not in json.dumps(signature), "what is kept with a model holds nobody's own value"


def card(words: str) -> Card:
    cells = CardTable((words, "b"), ((words, words), ("1", words)), frozenset({"b"}))
    importance = draw_importance([ColumnImportance(words, 0.3, 0.1), ColumnImportance("x", -0.1, 0.2)])
    sections = (Section(words, (words,), (cells,), (words,), words), Section("Calibration", (words,), (cells,), chart=importance))
    return Card(words, (words,), ((words, words),), sections)


class Shown(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_data(self, data) -> None:
        self.text.append(data)


def flat(words: str) -> str:
    return "".join(words.split())


# What breaks out of a cell, an attribute, an element, a line or a page is drawn far more often than by chance.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
SIGNS = "|`*_<>&\"'\\[](){}#+-.!~@$:/=\n\r\t0123abc "
words_ = st.text(st.one_of(st.sampled_from(SIGNS), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=40).filter(flat)


@settings(max_examples=300, deadline=None)
@given(words_)
def test_names_with_special_characters_are_escaped_in_markdown(words) -> None:
    plain = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(render_markdown(card("word")))
    drawn = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(render_markdown(card(words)))
    elements = [name for name, _ in Shown(drawn).elements]
    assert elements == [name for name, _ in Shown(plain).elements]
    said = flat(CONTROLS.sub("�", words))
    shown = flat("".join(Shown(drawn).text))
    assert shown.count(said) >= 12


@settings(max_examples=300, deadline=None)
@given(words_)
def test_names_with_special_characters_are_escaped_in_the_page(words) -> None:
    plain, drawn = Shown(render_html(card("word"))), Shown(render_html(card(words)))
    assert [name for name, _ in drawn.elements] == [name for name, _ in plain.elements]
    said = flat(CONTROLS.sub("�", words))
    assert flat("".join(drawn.text)).count(said) >= 12


def test_a_surrogate_that_no_file_can_hold_does_not_stop_a_card() -> None:
    for form in (render_markdown, render_html):
        form(card("a\ud800b\x00")).encode()


def test_a_browser_draws_a_card_and_runs_nothing_of_it(tmp_path) -> None:
    file = tmp_path / "card.html"
    file.write_text(render_html(card(NASTY)))
    with browser_page(900, 700) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("window.ran") is None
        assert page.locator("img, script, a").count() == 0
        assert flat(page.locator("h1").inner_text()) == flat(NASTY)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert asked == [file.as_uri()]
