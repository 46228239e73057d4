"""Retraining: from the reports of a monitor to a decision, and from a decision to a training run."""
