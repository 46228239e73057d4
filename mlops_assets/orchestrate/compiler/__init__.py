"""Compile a project's values to Dagster definitions, validated before Dagster sees them."""
