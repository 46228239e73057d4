"""The project as a graph of tables, its partitions, and how a step becomes a Dagster asset."""
