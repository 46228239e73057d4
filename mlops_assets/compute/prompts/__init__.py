"""Prompts as computations: the messages of a call, and the version of a prompt."""
