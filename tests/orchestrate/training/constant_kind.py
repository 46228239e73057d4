"""A kind of candidate without an estimator: the model's function returns one number, which answers every row."""

import hashlib
import json

import numpy as np

import mlops_assets as ml
from mlops_assets.compute.training.seeds import seed_globals
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.training.candidate_kind import Retraining, StoredFit, TrainedModel, TrainingInputs
from mlops_assets.orchestrate.training.recorded_function import call_recorded
from mlops_assets.orchestrate.training.run_facts import collect_training_facts, result_facts
from mlops_assets.orchestrate.training.training_log import record_fit, record_training_run
from mlops_assets.values.model import KIND


def evaluate_constant(value, splits) -> ml.types.Evaluation:
    y = splits["holdout"].y
    return ml.types.Evaluation(len(y), (("neg_mean_absolute_error", -float(np.abs(y - value).mean())),))


class ConstantKind:
    """The number is stored in the manifest."""

    name = "constant"

    def train(self, step, model, inputs: TrainingInputs) -> TrainedModel:
        splits, fingerprint = inputs.splits, inputs.fingerprint
        with record_training_run(step, model, inputs.deciding_facts, fingerprint) as active:
            with seed_globals(fingerprint) as draws:
                value = step.call(model.function, train=splits["train"])
            fit = self.package(step, model, value, splits["train"], splits, fingerprint, {})
            facts = collect_training_facts(step, model, inputs.rows, splits, value, draws, inputs.deciding_facts, fingerprint)
            run = record_fit(active, step, inputs, fit, dict(evaluate_constant(fit.fitted, splits).metrics), facts)
        return TrainedModel(run, fit.fitted, splits, reused=False)

    def package(self, step, _model, fitted, fitted_on, _splits, identity, facts) -> StoredFit:
        manifest = {KIND: self.name, "constant": fitted, "rows": len(fitted_on.y), **facts}
        artifact = step.stores.artifacts.put(json.dumps(manifest).encode())
        return StoredFit(fitted, artifact, hashlib.sha256(f"{identity}:{fitted}".encode()).hexdigest())

    def open(self, stores, _model, artifact):
        manifest = json.loads(stores.artifacts.get(artifact))
        if manifest[KIND] != self.name:
            raise ArtifactError(f"{artifact[:12]} is no constant", hint="train it again")
        return manifest["constant"]

    def compare(self, stores, model, trained, champion) -> ml.Candidate:
        mine = evaluate_constant(trained.fitted, trained.splits)
        theirs = None if champion is None else evaluate_constant(self.open(stores, model, champion.artifact), trained.splits)
        return ml.Candidate(model.name, trained.digest, trained.fitted, trained.splits["holdout"], mine, theirs)

    def reproduce(self, stores, retraining: Retraining) -> tuple[dict, dict]:
        value = call_recorded(retraining.function, retraining.splits, retraining.params)
        metrics = dict(evaluate_constant(value, retraining.splits).metrics)
        was = {"predictions": [json.loads(stores.artifacts.get(retraining.artifact))["constant"]]}
        return was, {**result_facts(value, retraining.source), "predictions": [value], "metrics": metrics}
