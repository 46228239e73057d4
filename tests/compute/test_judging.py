"""Evaluation, gates, leakage, on-demand features: fail closed, and say why."""

import math

import numpy as np
import polars as pl
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

import mlops_assets as ml
from mlops_assets.compute.evaluate import check_metrics, evaluate
from mlops_assets.compute.gates import judge, judge_function
from mlops_assets.compute.leakage import leaks
from mlops_assets.compute.on_demand import apply, columns_as_arrays, foreign_imports, load_functions
from mlops_assets.compute.plots import plots
from mlops_assets.errors import DataError, DefinitionError

RNG = np.random.default_rng(0)
X = pl.DataFrame({"x": RNG.normal(size=400)})
ROWS = X.with_columns(g=pl.Series(["a", "b"] * 200))
Y = (X["x"].to_numpy() + RNG.normal(size=400) > 0).astype(int)
SPLIT = ml.Split(X, Y, ROWS)
FITTED = LogisticRegression().fit(X, Y)


def candidate(evaluation, champion=None):
    return ml.Candidate("m", "d", FITTED, SPLIT, evaluation, champion)


def evaluation(**metrics):
    return ml.Evaluation(10, tuple(metrics.items()))


def test_metrics_are_scikit_learns_beside_a_baseline_and_by_slice() -> None:
    from sklearn.metrics import roc_auc_score

    found = evaluate(FITTED, SPLIT, ["roc_auc", "neg_log_loss"], ["g"], train=SPLIT)
    assert found.metric("roc_auc") == roc_auc_score(Y, FITTED.predict_proba(X)[:, 1])
    assert dict(found.baseline)["roc_auc"] == 0.5
    mask = (ROWS["g"] == "a").to_numpy()
    assert found.metric("roc_auc", within=("g", "a")) == roc_auc_score(Y[mask], FITTED.predict_proba(X.filter(mask))[:, 1])
    assert {(s.column, s.value, s.rows) for s in found.slices} == {("g", "a", 200), ("g", "b", 200)}


def test_an_undefined_metric_is_nan_with_its_reason() -> None:
    ones = ml.Split(X, np.ones(400, dtype=int), ROWS)
    found = evaluate(FITTED, ones, ["roc_auc"])
    assert math.isnan(found.metric("roc_auc"))
    assert "every label is 1" in dict(found.problems)["roc_auc"] or "one class" in dict(found.problems)["roc_auc"]
    assert not judge(ml.Gate("roc_auc", at_least=0.0), candidate(found)).passed


def test_regression_is_measured_too() -> None:
    y = X["x"].to_numpy() * 2
    found = evaluate(LinearRegression().fit(X, y), ml.Split(X, y, ROWS), ["r2", "neg_mean_absolute_error"], train=ml.Split(X, y, ROWS))
    assert found.metric("r2") == pytest.approx(1)
    assert dict(found.baseline)["r2"] == pytest.approx(0)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(DefinitionError, match="'roc_acu'.*\n.*did you mean 'roc_auc'"):
        check_metrics(["roc_acu"], "'model/m'")


@pytest.mark.parametrize(
    ("gate", "mine", "champions", "passed"),
    [
        (ml.Gate("m", at_least=0.5), 0.5, None, True),
        (ml.Gate("m", at_least=0.5), 0.49999, None, False),
        (ml.Gate("m", at_least=0.5), math.nan, None, False),
        (ml.Gate("m", at_least=-1.0), math.inf, None, False),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.4, None, True),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.45, 0.5, True),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.35, 0.5, False),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.9, math.nan, False),
        (ml.Gate("m", better_than_champion_by=0.1), 0.55, 0.5, False),
        (ml.Gate("m", better_than_champion_by=0.1), 0.65, 0.5, True),
        (ml.Gate("m", better_than_champion_by=0.1), math.nan, None, False),
    ],
)
def test_gates_pass_on_evidence_only(gate, mine, champions, passed) -> None:
    rival = None if champions is None else evaluation(m=champions)
    found = judge(gate, candidate(evaluation(m=mine), rival))
    assert found.passed is passed
    assert found.reason


def test_a_gate_on_a_slice_that_is_not_there_fails() -> None:
    found = judge(ml.Gate("m", at_least=0, slice=("g", "zzz")), candidate(evaluation(m=1.0)))
    assert not found.passed
    assert "no holdout row has g zzz" in found.reason


def gate_function(body):
    import dagster as dg

    class Params(dg.Config):
        pass

    @ml.dataset()
    def rows() -> pl.DataFrame: ...

    @ml.training_set(label="y", columns=["x"], split=ml.GroupSplit("g"))
    def examples(rows: pl.DataFrame) -> pl.DataFrame: ...

    @ml.model(training_set=examples, metrics=["roc_auc"])
    def model(train: ml.Split) -> LogisticRegression: ...

    @ml.gate(model)
    def sound(candidate: ml.Candidate) -> ml.GateResult:
        return body(candidate)

    return sound


@pytest.mark.parametrize(
    ("body", "passed", "word"),
    [
        (lambda _: True, True, "holds"),
        (lambda _: np.bool_(False), False, "does not hold"),
        (lambda _: ml.GateResult(passed=True, reason="fine"), True, "fine"),
        (lambda _: ml.GateResult(passed=True, value=math.nan), False, "nan"),
        (lambda _: 1, False, "returned int"),
        (lambda _: None, False, "returned NoneType"),
        (lambda _: 1 / 0, False, "ZeroDivisionError"),
    ],
)
def test_a_gate_function_passes_only_by_saying_so(body, passed, word) -> None:
    found = judge_function(gate_function(body), candidate(evaluation(m=1.0)))
    assert found.passed is passed
    assert word in found.reason


def test_a_later_column_under_another_name_is_found() -> None:
    later = pl.DataFrame({"arr_delay": RNG.normal(size=400)})
    rows = pl.DataFrame({"honest": RNG.normal(size=400), "smuggled": later["arr_delay"] * 3 + 1})
    found = leaks(rows, rows.columns, later)
    assert [(leak.column, leak.later) for leak in found] == [("smuggled", "arr_delay")]


def test_on_demand_features_are_the_same_function_from_stored_source() -> None:
    source = "import numpy as np\ndef double(x):\n    return {'twice': x * 2}\n"
    (stored,) = load_functions(source, ["double"])
    assert apply([stored], {"x": np.array([1, 2])})["twice"].tolist() == [2, 4]
    assert foreign_imports("import numpy\nimport os\nfrom scipy import stats\nimport pandas as pd") == {"scipy", "pandas"}
    times = pl.DataFrame({"t": pl.Series([0], dtype=pl.Datetime("ns", "UTC"))})
    assert columns_as_arrays(times, ["t"])["t"].dtype == np.dtype("datetime64[us]")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: {"a": y}, "need the column 'y'"),
        (lambda x: x, "returned ndarray"),
        (lambda x: {"a": x[:1]}, "shape \\(1,\\) for 2 rows"),
    ],
)
def test_a_wrong_on_demand_function_is_named(function, words) -> None:
    with pytest.raises(DataError, match=words):
        apply([function], {"x": np.array([1, 2])})


def test_plots_are_pngs() -> None:
    pictures = plots(FITTED, SPLIT)
    assert set(pictures) == {"ROC", "calibration", "importance"}
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    y = X["x"].to_numpy()
    assert set(plots(LinearRegression().fit(X, y), ml.Split(X, y, ROWS))) == {"prediction against truth", "importance"}
    assert "importance" in plots(DummyClassifier().fit(X, Y), SPLIT)
