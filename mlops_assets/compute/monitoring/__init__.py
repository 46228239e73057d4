"""Drift and performance of each version in each window, and the decision to retrain."""
