"""Commands of LLM operations."""
