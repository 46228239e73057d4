"""What fitted estimators tell: the real ones of scikit-learn, LightGBM and XGBoost."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_assets.compute.training.autolog import read_training_log

X, Y = make_classification(200, 5, random_state=0)
HALF = (X[:100], Y[:100], X[100:], Y[100:])


def test_a_pipeline_logs_the_parameters_of_its_steps() -> None:
    told = read_training_log(make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(X, Y))
    assert told.params["logisticregression__C"] == 0.5
    assert told.params["standardscaler__with_mean"] is True
    assert not {"steps", "logisticregression", "standardscaler"} & set(told.params)
    assert told.curves == {}


def test_iterations_of_scikit_learn_are_logged() -> None:
    hist = HistGradientBoostingClassifier(max_iter=7, early_stopping=True, n_iter_no_change=100, random_state=0).fit(X, Y)
    told = read_training_log(make_pipeline(StandardScaler(), hist).fit(X, Y))
    np.testing.assert_array_equal(told.curves["validation_score"], hist.validation_score_)
    assert told.metrics["iterations"] == 7
    gradient = read_training_log(GradientBoostingClassifier(n_estimators=4, subsample=0.5, random_state=0).fit(X, Y))
    assert (len(gradient.curves["train_score"]), len(gradient.curves["oob_improvement"])) == (4, 4)
    network = MLPClassifier(max_iter=500, early_stopping=True, random_state=0).fit(X, Y)
    told = read_training_log(network)
    assert told.curves["loss"] == network.loss_curve_
    assert len(told.curves["validation_score"]) == network.n_iter_


def test_a_search_logs_what_it_chose() -> None:
    search = GridSearchCV(GradientBoostingClassifier(n_estimators=3, random_state=0), {"max_depth": [1, 2]}, cv=2).fit(X, Y)
    told = read_training_log(search)
    assert told.params["best__max_depth"] == search.best_params_["max_depth"]
    assert len(told.curves["train_score"]) == 3


def test_evaluations_and_the_best_iteration_of_lightgbm_are_logged() -> None:
    import lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=30, num_leaves=4, verbose=-1, random_state=0)
    stop = lightgbm.early_stopping(3, verbose=False)
    model.fit(HALF[0], HALF[1], eval_X=HALF[2], eval_y=HALF[3], eval_metric="auc", callbacks=[stop])
    told = read_training_log(model)
    assert told.params["num_leaves"] == 4
    assert told.curves["valid_0.auc"] == model.evals_result_["valid_0"]["auc"]
    assert told.metrics["best_iteration"] == model.best_iteration_
    booster = lightgbm.train({"num_leaves": 4, "verbose": -1}, lightgbm.Dataset(X, Y), num_boost_round=3)
    assert read_training_log(booster).params["num_leaves"] == 4


def test_evaluations_and_the_best_iteration_of_xgboost_are_logged() -> None:
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=30, max_depth=2, early_stopping_rounds=3, eval_metric=["auc", "logloss"], n_jobs=1)
    model.fit(HALF[0], HALF[1], eval_set=[(HALF[2], HALF[3])], verbose=False)
    told = read_training_log(model)
    assert told.params["max_depth"] == 2
    assert told.curves["validation_0.logloss"] == model.evals_result()["validation_0"]["logloss"]
    assert told.metrics["best_iteration"] == model.best_iteration
    assert read_training_log(xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(X, Y)).curves == {}
    booster = xgboost.train({"max_depth": 2, "nthread": 1}, xgboost.DMatrix(X, Y), num_boost_round=2)
    assert read_training_log(booster).params["max_depth"] == "2"


def test_nothing_is_imported_to_ask() -> None:
    code = """
import sys
from mlops_assets.compute.training.autolog import read_training_log
read_training_log(object())
assert not {"sklearn", "lightgbm", "xgboost", "numpy"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Odd:
    """An estimator that lies."""

    loss_curve_ = "abc"
    train_score_ = 3
    n_iter_ = "many"
    best_iteration_ = -1
    steps = ()

    def get_params(self, **_more: bool) -> dict[str, object]:
        return {"array": np.zeros(5000), "nothing": None, "inner": self, "text": "x" * 9999, "list": [1, 2]}


def test_what_is_no_number_or_too_long_is_left_out_or_cut() -> None:
    told = read_training_log(Odd())
    assert (told.metrics, told.curves) == ({}, {})
    assert set(told.params) == {"array", "list", "text"}
    assert all(len(str(value)) <= 500 for value in told.params.values())


@pytest.mark.parametrize("estimator", [object(), None, "x", 3])
def test_anything_may_be_asked(estimator) -> None:
    assert read_training_log(estimator).params == {}
