"""Run machine learning in production on Dagster."""
