"""Estimates of performance before labels arrive: from calibrated probabilities, or from a model of the holdout's losses."""
