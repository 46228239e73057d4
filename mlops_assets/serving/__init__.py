"""What runs a model without Dagster: packaging and batch scoring."""
