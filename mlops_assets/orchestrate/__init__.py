"""Compile a project's values to Dagster definitions, and run their steps."""
