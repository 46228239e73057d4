"""Prompts as computations: the messages of a call, the version of a prompt, redaction and denied topics."""
