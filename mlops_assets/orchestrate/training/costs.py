"""Measure what a stored candidate costs: the size of its artifacts, and the time of a prediction."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from mlops_assets.compute.tables.frames import sample_evenly
from mlops_assets.serving.formats.integrity import JUDGED, list_parts
from mlops_assets.serving.formats.packaging import POSITIVE, read_manifest, unpack
from mlops_assets.serving.predict.predictor import list_columns, make_predictor
from mlops_assets.stores.artifacts.store import Artifacts
from mlops_assets.values.evaluation import PredictionTimes

_WARM_UP = 20  # calls that are not measured


@dataclass(frozen=True, eq=False)
class StoredCosts:
    """The costs of a stored estimator, measured when a gate asks for them.

    Parameters
    ----------
    artifacts
        The store of the estimator's artifacts.
    artifact
        The sha256 of the estimator's manifest.
    trusted_types
        The trusted types that the model declares.
    rows
        Rows of ``X`` to predict, from the holdout.
    """

    artifacts: Artifacts
    artifact: str
    trusted_types: Sequence[str]
    rows: pl.DataFrame

    def artifact_bytes(self) -> float:
        """Return the bytes of the manifest and of the files that it names, each file once; a judged fit's manifest is not counted."""
        files = {sha256 for name, sha256 in list_parts(read_manifest(self.artifacts, self.artifact)) if name != JUDGED}
        return float(sum(len(self.artifacts.get(sha256)) for sha256 in {self.artifact, *files}))

    def time_predictions(self, calls: int) -> PredictionTimes:
        """Return the seconds of ``calls`` single-row predictions, by the predictor that a service builds from these artifacts.

        Rows repeat when there are fewer than ``calls``.
        """
        # A separate copy, because the predictor limits its estimator to one thread.
        bundle = unpack(self.artifacts, self.artifact, self.trusted_types)
        probe = pl.read_ipc(io.BytesIO(self.artifacts.get(bundle.manifest["probe"])))
        predict = make_predictor(bundle.estimator, probe, predicts_argmax=bundle.predicts_argmax, positive=bundle.manifest.get(POSITIVE))
        rows = sample_evenly(self.rows, calls)
        columns = list_columns(rows)
        requests = [[[column[row]] for column in columns] for row in range(rows.height)]
        for call in range(_WARM_UP):
            predict(requests[call % len(requests)], 1)
        seconds = []
        for call in range(calls):
            request = requests[call % len(requests)]
            started = time.perf_counter()
            predict(request, 1)
            seconds.append(time.perf_counter() - started)
        return PredictionTimes(tuple(seconds), f"{predict.description.partition(' ')[0]} predictor, holdout rows")
