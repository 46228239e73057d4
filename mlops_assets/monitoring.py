"""Values for monitors that need more than the defaults: drift statistics, objectives, alerts and the ML Test Score.

Examples
--------
>>> import mlops_assets as ml
>>> expected = ml.Drift(columns={"temp": ml.monitoring.PSI(0.2), "wind": None})
>>> expected.thresholds["temp"].value
0.2
"""

from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.alerts.channels import Email, Slack, Webhook
from mlops_assets.values.alerts.silences import Silence
from mlops_assets.values.drift import PSI, DomainClassifier, JensenShannon, KolmogorovSmirnov, SameWeeks, Wasserstein
from mlops_assets.values.expectations.error_change import ErrorChange
from mlops_assets.values.expectations.estimated_performance import EstimatedPerformance
from mlops_assets.values.expectations.objectives import ErrorRate, Latency, MissingFeatures
from mlops_assets.values.score.score import DeclaredTest, MLTestScore

__all__ = [  # noqa: RUF022  (as sorted() sorts)
    "Alerts",
    "DeclaredTest",
    "DomainClassifier",
    "Email",
    "ErrorChange",
    "ErrorRate",
    "EstimatedPerformance",
    "JensenShannon",
    "KolmogorovSmirnov",
    "Latency",
    "MLTestScore",
    "MissingFeatures",
    "PSI",
    "SameWeeks",
    "Silence",
    "Slack",
    "Wasserstein",
    "Webhook",
]
