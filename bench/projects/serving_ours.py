"""The model of the serving benchmark, for every contender, and our service of it: ``make``, ``start`` and ``stop`` in a folder."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import joblib
import numpy as np
import polars as pl

from bench.projects.serving_fields import FLOATS, TEXTS, WHOLE
from mlops_assets.serving.formats.packaging import pack
from mlops_assets.serving.http.control import ServiceSpec, start, stop
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.registry.records import CandidateRecord
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.values.platform import Platform

MODEL, SERVICE = "lateness", "bench_api"
TRAINED, SENT, CHECKED = 20_000, 1_000, 200  # rows


def rows(count: int, seed: int) -> pl.DataFrame:
    """Return synthetic rows; numbers have few digits, so that no JSON decoder rounds them."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.choice([f"{name}{i}" for i in range(levels)], count) for name, levels in TEXTS.items()}
    columns |= {name: np.round(rng.normal(10, 5, count), 4) for name in FLOATS}
    columns |= {name: rng.integers(0, 3000, count) for name in WHOLE}
    return pl.DataFrame({name: values.tolist() for name, values in columns.items()})


def fitted(X: pl.DataFrame):
    """Return the pipeline, trained; on a pandas frame, as the peers will ask it."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    frame = X.to_pandas()
    score = frame["wind"] * frame["rain"] / 100 + frame["distance"] / 1500 + frame["carrier"].str[-1].astype(int) / 5
    late = np.random.default_rng(1).random(len(frame)) < 1 / (1 + np.exp(2.5 - score))
    encoder = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), list(TEXTS)), remainder="passthrough"
    )
    return make_pipeline(
        encoder, HistGradientBoostingClassifier(max_iter=120, max_leaf_nodes=15, early_stopping=False, random_state=0)
    ).fit(frame, late)


def make(home: Path) -> dict:
    """Train once, store the model for the peers, register and promote it for us, and write what is sent and what must come back."""
    X, sent = rows(TRAINED, 0), rows(SENT, 2)
    model = fitted(X)
    joblib.dump(model, home / "model.joblib")
    expected = model.predict_proba(sent.head(CHECKED).to_pandas())[:, 1].tolist()
    (home / "rows.json").write_text(json.dumps({"rows": sent.to_dicts(), "expected": expected}), encoding="utf-8")
    request = [(name, "str") for name in TEXTS] + [(name, "float") for name in FLOATS] + [(name, "int") for name in WHOLE]
    fields = [{"name": name, "type": kind, "nullable": False, "role": "column"} for name, kind in request]
    platform = Platform.at(home / "ours")
    facts = {"model": MODEL, "event_timestamp": None, "request": fields, "steps": []}
    artifact = pack(open_artifacts(platform.artifacts), model, X=X, holdout=sent, modules=[], facts=facts)
    registry = open_registry(platform.registry)
    registry.submit(CandidateRecord(MODEL, "bench", "bench", artifact, 1, datetime.now(UTC)), [])
    version = registry.register(MODEL, {}).version
    registry.promote(MODEL, {}, actor="bench", reason="benchmark", version=version)
    return {}


def begin(home: Path) -> dict:
    """Start our service with one worker; all else as it is by default."""
    at = Platform.at(home / "ours")
    now = start(ServiceSpec(SERVICE, MODEL, at.home, at.registry, at.artifacts, at.online, workers=1), timeout=120)
    return {"url": now.url, "predictor": now.workers[0].predictor}


def end(home: Path) -> dict:
    """Stop it, and count what it logged."""
    at = Platform.at(home / "ours")
    stop(at.home, SERVICE)
    spec = ServiceSpec(SERVICE, MODEL, at.home, at.registry, at.artifacts, at.online)
    return {"logged": sum(sum(1 for _ in path.open("rb")) for path in spec.folder.log.rglob("*.jsonl"))}


if __name__ == "__main__":
    print(json.dumps({"make": make, "start": begin, "stop": end}[sys.argv[1]](Path(sys.argv[2]))))
