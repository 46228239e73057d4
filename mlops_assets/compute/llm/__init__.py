"""Scores of generated text that need no language model."""
