"""The model registry: versions, aliases, gate results, decisions, reproductions and erasures."""
