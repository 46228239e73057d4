"""Drift and performance of a window of predictions: cells, distances, thresholds, labels, and the decision to retrain."""
