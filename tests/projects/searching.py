"""A model that searches for its hyperparameters; every call of its function leaves a line, and one may be told to die."""

import os
import signal
from pathlib import Path

from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from tests.projects.searching_apart import Strength, examples, people


def nouns(search: ml.Search, calls: Path) -> list:
    """Return the project's nouns; ``calls`` gets one line for each fit."""

    @ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], search=search)
    def buys(train: ml.Split, params: Strength) -> LogisticRegression:
        """Probability of buying."""
        with calls.open("a") as file:
            file.write(f"{params.C!r}\n")
        if os.environ.get("DIE_AT") == str(len(calls.read_text().splitlines())):
            os.kill(os.getpid(), signal.SIGKILL)
        if params.penalty == 9:
            raise ValueError("no such penalty")
        ml.runs.log_metric("neg_log_loss", -params.C, step=1)
        return LogisticRegression(C=params.C).fit(train.X, train.y)

    return [people, examples, buys]


if "SEARCH_CALLS" in os.environ:
    SEARCH = ml.Search({"C": ml.types.SearchRange(0.001, 10.0, log=True)}, trials=8, metric="neg_log_loss", seed=1)
    defs = ml.build_definitions(nouns(SEARCH, Path(os.environ["SEARCH_CALLS"])))
