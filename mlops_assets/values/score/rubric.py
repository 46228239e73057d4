"""The 28 tests of the ML Test Score (Breck et al. 2017), in four sections of seven."""

from __future__ import annotations

from dataclasses import dataclass

DATA, MODEL, INFRASTRUCTURE, MONITORING = "data", "model", "infrastructure", "monitoring"
SECTIONS = (DATA, MODEL, INFRASTRUCTURE, MONITORING)
FULL, HALF = 1.0, 0.5  # points of an automated test, and of a documented test by hand


@dataclass(frozen=True)
class RubricTest:
    """One test of the rubric.

    Parameters
    ----------
    name
        Names the test in declarations and reports.
    section
        ``data``, ``model``, ``infrastructure`` or ``monitoring``.
    text
        The statement that the test verifies.
    """

    name: str
    section: str
    text: str


_TEXTS = {
    DATA: {
        "feature_schema": "feature expectations are captured in a schema",
        "feature_benefit": "all features are beneficial",
        "feature_cost": "no feature's cost is too much",
        "feature_policy": "features adhere to meta-level requirements",
        "data_privacy": "the data pipeline has appropriate privacy controls",
        "new_features": "new features can be added quickly",
        "feature_tests": "all input feature code is tested",
    },
    MODEL: {
        "spec_review": "model specs are reviewed and submitted",
        "metric_correlation": "offline and online metrics correlate",
        "hyperparameters": "all hyperparameters have been tuned",
        "staleness": "the impact of model staleness is known",
        "simpler_model": "a simpler model is not better",
        "slice_quality": "model quality is sufficient on important data slices",
        "inclusion": "the model is tested for considerations of inclusion",
    },
    INFRASTRUCTURE: {
        "reproducibility": "training is reproducible",
        "spec_tests": "model specs are unit tested",
        "pipeline_test": "the ML pipeline is integration tested",
        "validation": "model quality is validated before serving",
        "debugging": "the model is debuggable",
        "canary": "models are canaried before serving",
        "rollback": "serving models can be rolled back",
    },
    MONITORING: {
        "dependency_changes": "dependency changes result in notification",
        "data_invariants": "data invariants hold for inputs",
        "skew": "training and serving are not skewed",
        "model_age": "models are not too stale",
        "numerical_stability": "models are numerically stable",
        "computing_performance": "computing performance has not regressed",
        "prediction_quality": "prediction quality has not regressed",
    },
}
TESTS = {name: RubricTest(name, section, text) for section, texts in _TEXTS.items() for name, text in texts.items()}
