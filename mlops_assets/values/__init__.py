"""Declarations of a project: frozen values, without I/O and without Dagster."""
