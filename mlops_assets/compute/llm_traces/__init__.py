"""Traces of language models: the rows of spans, and spans in OTLP."""
