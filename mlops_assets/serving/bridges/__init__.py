"""Bridges to BentoML and MLflow."""
