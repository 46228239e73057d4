"""BentoML and scikit-learn as its documentation has it: a service whose API takes a data frame."""

import os

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=1, traffic={"timeout": 120})
class Lateness:
    """Holds the pipeline."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["BENCH_MODEL"])

    @bentoml.api
    def predict(self, rows: pd.DataFrame) -> list[float]:
        """Return the probability of each row."""
        return self.model.predict_proba(rows)[:, 1].tolist()
