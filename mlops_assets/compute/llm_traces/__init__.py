"""Traces of language models: the rows of spans."""
