"""Validate the declarations of a project, and compile them to Dagster definitions."""
