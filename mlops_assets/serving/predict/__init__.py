"""Prediction: request schema, feature lookup, compiled preprocessing and batch scoring."""
