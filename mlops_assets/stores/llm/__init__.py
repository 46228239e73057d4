"""Stored completions of language models: the response cache."""
