"""Benchmarks against peers: both in one run, equal answers checked, results as JSON and Markdown."""
