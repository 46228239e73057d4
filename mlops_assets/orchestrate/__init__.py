"""The only package that imports Dagster: it compiles a project's values to Dagster definitions."""
