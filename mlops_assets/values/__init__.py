"""Nouns: frozen values that declare, without I/O and without Dagster."""
