"""Train a registered version again from its record and compare the results."""
