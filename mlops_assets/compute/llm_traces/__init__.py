"""Traces of language models: the rows of spans, and OpenTelemetry's formats."""
