"""Verbs: pure functions over frames and arrays."""
