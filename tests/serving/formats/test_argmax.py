"""An estimator of scikit-learn that is not asked for its prediction predicts its likeliest class, also far from every training row."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.utils import all_estimators

from mlops_assets.serving.formats.argmax import argmax_class, may_predict_argmax

pytestmark = pytest.mark.filterwarnings("ignore")
_COUNTS = ("CategoricalNB", "ComplementNB", "MultinomialNB")  # take no negative numbers
_SEVERAL = ("ClassifierChain", "MultiOutputClassifier")  # of several labels


def _made(name: str, kind: type):
    few = [(str(n), LogisticRegression(C=10.0**n)) for n in range(2)]
    made = {
        "FixedThresholdClassifier": lambda: kind(LogisticRegression(), threshold=0.3, pos_label=1),
        "RadiusNeighborsClassifier": lambda: kind(radius=5.0, outlier_label=0),
        "SelfTrainingClassifier": lambda: kind(LogisticRegression()),
        "SGDClassifier": lambda: kind(loss="modified_huber"),
        "StackingClassifier": lambda: kind(few),
        "VotingClassifier": lambda: kind(few, voting="soft"),
    }.get(name, kind)
    try:
        estimator = made()
    except TypeError:
        estimator = kind(LogisticRegression())
    return estimator.set_params(probability=True) if "probability" in estimator.get_params() else estimator


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("name", "kind"), [each for each in all_estimators("classifier") if each[0] not in _SEVERAL])
def test_what_may_predict_the_likeliest_class_predicts_it_far_from_the_training_rows_too(name, kind, classes) -> None:
    X, blobs = make_blobs(90, centers=2 * classes, n_features=3, cluster_std=3, random_state=0)
    rng = np.random.default_rng(0)
    far = np.vstack([X, *(rng.normal(size=(500, 3)) * scale for scale in (0.5, 5, 50, 1e4))])
    if name in _COUNTS:
        X, far = np.abs(X).round(), np.abs(X).round()
    fitted = _made(name, kind).fit(X, blobs % classes) if classes == 2 or "Threshold" not in name else None
    if fitted is None or not hasattr(fitted, "predict_proba") or not may_predict_argmax(fitted):
        return
    assert (argmax_class(fitted.classes_, fitted.predict_proba(far)) == fitted.predict(far)).all()
