"""Stores the pipeline as an MLflow model with a signature; ``mlflow models serve`` does the rest."""

import sys

import joblib
import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature

from bench.projects.serving_fields import FLOATS, TEXTS, WHOLE


def main(model_path: str, rows_path: str, folder: str) -> None:
    """Save the model into a folder; the signature is that of the rows that will be sent."""
    import json
    from pathlib import Path

    model = joblib.load(model_path)
    rows = pd.DataFrame(json.loads(Path(rows_path).read_text(encoding="utf-8"))["rows"])[[*TEXTS, *FLOATS, *WHOLE]]
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=infer_signature(rows, model.predict_proba(rows)),
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )


main(*sys.argv[1:])
