"""FastAPI and scikit-learn in the usual way: a typed row, one data frame a request, the pipeline."""

import os

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import create_model

from bench.projects.serving_fields import FLOATS, TEXTS, WHOLE

Row = create_model("Row", **dict.fromkeys(TEXTS, (str, ...)), **dict.fromkeys(FLOATS, (float, ...)), **dict.fromkeys(WHOLE, (int, ...)))
model = joblib.load(os.environ["BENCH_MODEL"])
app = FastAPI()


@app.post("/predict")
def predict(rows: list[Row]) -> list[float]:
    """Return the probability of each row."""
    frame = pd.DataFrame([row.model_dump() for row in rows])
    return model.predict_proba(frame)[:, 1].tolist()
