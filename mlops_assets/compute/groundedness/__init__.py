"""Groundedness of an answer in its context, scored without a language model."""
