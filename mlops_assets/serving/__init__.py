"""What runs a model without Dagster: packaging, batch scoring, services and their log."""
