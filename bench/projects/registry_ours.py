"""Our registry: ``python -m bench.projects.registry_ours FOLDER``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import Any

import polars as pl

from bench.projects.registry_model import COLUMNS, VERSIONS, asked, fitted, rows, small
from bench.worker import serve
from mlops_assets.serving.formats.packaging import pack, unpack
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.registry.records import CandidateRecord, Evidence
from mlops_assets.stores.registry.registry import open_registry

GATES = {"roc_auc_at_least": "definition"}
NAMES = [f"x{i}" for i in range(COLUMNS)]


def frame(values: Any) -> pl.DataFrame:
    """Return rows as the model takes them."""
    return pl.DataFrame(values, schema=NAMES)


def main(folder: str) -> None:  # noqa: C901  (one small function for each question)
    """Answer questions."""
    registry, artifacts = open_registry(f"sqlite:///{folder}/ours.sqlite"), open_artifacts(f"{folder}/artifacts")
    artifact, little = (pack(artifacts, model, X=frame(rows(500)), modules=[], facts={}) for model in (fitted(), small()))
    made = iter(range(10**9))

    def submit(name: str, stored: str) -> None:
        digest = f"{next(made):064x}"
        evidence = Evidence("roc_auc_at_least", "definition", digest, passed=True, value=0.9, threshold=0.6, reason="0.9 ≥ 0.6")
        registry.submit(CandidateRecord(name, digest, "run", stored, 1, datetime.now(UTC)), [evidence])

    def one(_: int) -> None:
        submit("m", artifact)
        registry.register("m", GATES)

    for name, stored in (("m", artifact), ("small", little)):
        submit(name, stored)
        registry.register(name, GATES)
        registry.promote(name, GATES, actor="bench", reason="bench")

    def register(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: registry.register("m", GATES), lambda: submit("m", artifact))

    def judged(times: int) -> dict[str, Any]:
        return _timed(times, one)

    def alias(times: int) -> dict[str, Any]:
        return _timed(times, lambda i: registry.promote("m", GATES, actor="bench", reason="bench", version=1 + i % 2))

    def get(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: registry.champion("m"))

    def load(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: unpack(artifacts, registry.champion("m").artifact))  # type: ignore[union-attr]

    def load_small(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: unpack(artifacts, registry.champion("small").artifact))  # type: ignore[union-attr]

    def versions(times: int) -> dict[str, Any]:
        return _timed(times, lambda _: registry.versions("m"))

    def fill() -> dict[str, Any]:
        for _ in range(VERSIONS - len(registry.versions("m"))):
            one(0)
        return {}

    def answers() -> dict[str, Any]:
        champion = registry.champion("m")
        assert champion is not None
        shares = unpack(artifacts, champion.artifact).estimator.predict_proba(frame(asked()))[:, 1]
        return {"champion": champion.version, "versions": len(registry.versions("m")), "predictions": shares.round(12).tolist()}

    questions = (register, judged, alias, get, load, load_small, versions, fill, answers)
    serve({question.__name__: question for question in questions})


def _timed(times: int, do: Callable[[int], object], before: Callable[[], object] = int) -> dict[str, Any]:
    spent = []
    for turn in range(times):
        before()
        begun = time.perf_counter()
        do(turn)
        spent.append(time.perf_counter() - begun)
    return {"seconds": median(spent)}


if __name__ == "__main__":
    main(*sys.argv[1:])
