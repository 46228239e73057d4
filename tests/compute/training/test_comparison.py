"""Verdicts, by an oracle: what differs, in which order, and how far."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlops_assets.compute.training.comparison import CAUSES, CIRCUMSTANCES, compare_trainings
from mlops_assets.compute.training.seeds import find_seeds, seed_globals

ORDER = (*CAUSES, *CIRCUMSTANCES)


def facts(changed: frozenset[str] = frozenset(), predictions: tuple[float, ...] = (0.25, 0.5), auc: float = 0.7) -> dict:
    return {name: {"x": 2 if name in changed else 1} for name in ORDER} | {"predictions": list(predictions), "metrics": {"auc": auc}}


@given(st.frozensets(st.sampled_from(ORDER)), st.sampled_from([0.0, 2.0**-54, 1e-7, 1e-3]), st.sampled_from([0.0, 1e-9, 1e-2]))
def test_a_verdict_is_what_its_definition_says(changed, moved, metric) -> None:
    found = compare_trainings(facts(), facts(changed, (0.25, 0.5 + moved), 0.7 + metric))
    equal = 0.5 + moved == 0.5 and 0.7 + metric == 0.7
    close = moved < 1e-6 and metric < 1e-6
    wanted = "IDENTICAL" if equal and not changed & set(CAUSES) else "EQUIVALENT" if close else "DIFFERENT"
    assert found.verdict == wanted
    first = next((f"{name}.x" for name in ORDER if name in changed), None)
    if first:
        assert (found.first.field, found.first.was, found.first.now) == (first, 1, 2)
    elif equal:
        assert found.first is None
    else:
        assert found.first.field in ("predictions.row 1 of the probe", "metrics.auc")


def test_nan_equals_nan_and_shapes_are_compared() -> None:
    assert (
        compare_trainings(facts(predictions=(np.nan, 1.0), auc=np.nan), facts(predictions=(np.nan, 1.0), auc=np.nan)).verdict == "IDENTICAL"
    )
    assert compare_trainings(facts(predictions=(np.nan, 1.0)), facts(predictions=(0.0, 1.0))).verdict == "DIFFERENT"
    assert compare_trainings(facts(), facts(predictions=(0.25, 0.5, 0.5))).first.field == "predictions.shape"


def test_another_package_is_named_only_when_something_came_of_it() -> None:
    was, now = facts() | {"other_packages": {"rich": "13"}}, {"other_packages": {"rich": "14"}}
    assert compare_trainings(was, facts() | now).first is None
    found = compare_trainings(was, facts(predictions=(0.25, 0.6)) | now)
    assert (found.verdict, found.first.field) == ("DIFFERENT", "other_packages.rich")


def test_a_second_fit_is_compared_like_the_first() -> None:
    second = {"refit": {"predictions": [0.1, 0.9], "labels": [False, True]}}
    was, moved = facts() | second, {"refit": {"predictions": [0.1, 0.4], "labels": [False, False]}}
    assert compare_trainings(was, facts() | second).verdict == "IDENTICAL"
    found = compare_trainings(was, facts() | moved)
    assert (found.verdict, found.largest) == ("DIFFERENT", 0.5)
    assert [d.field for d in found.differences] == ["refit.predictions.row 1 of the probe", "refit.labels.row 1 of the probe"]
    close = {"refit": {"predictions": [0.1, 0.9 + 1e-9], "labels": [False, True]}}
    assert compare_trainings(was, facts() | close).verdict == "EQUIVALENT"


def test_the_global_generators_are_seeded_watched_and_put_back() -> None:
    x, y = np.random.default_rng(0).normal(size=(80, 3)), np.arange(80) % 2
    random.seed(5), np.random.seed(5)
    outside = random.random(), np.random.random()
    random.seed(5), np.random.seed(5)
    made = []
    for _ in range(2):
        with seed_globals("0f" * 32) as draws:
            made.append(RandomForestClassifier(5).fit(x, y).predict_proba(x).tobytes())
        assert draws.drawn == ("numpy",)
    assert made[0] == made[1]
    assert (random.random(), np.random.random()) == outside
    with seed_globals("0f" * 32) as draws:
        LogisticRegression().fit(x, y)  # random_state is None, and nothing is drawn
    assert draws.drawn == ()
    with seed_globals("0f" * 32) as draws:
        random.random()
    assert draws.drawn == ("python",)


@pytest.mark.parametrize(
    ("estimator", "seeds"),
    [
        (make_pipeline(LogisticRegression(), RandomForestClassifier(random_state=np.int64(3))), {"logisticregression__random_state": None, "randomforestclassifier__random_state": 3}),
        (RandomForestClassifier(random_state=np.random.RandomState(1)), {"random_state": "RandomState"}),
        (object(), {}),
    ],
)  # fmt: skip
def test_seeds_are_found_wherever_they_are(estimator, seeds) -> None:
    assert find_seeds(estimator) == seeds
