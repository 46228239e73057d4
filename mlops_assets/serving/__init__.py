"""Serving without Dagster: packaging, batch scoring, services and their logs."""
