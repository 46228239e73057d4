"""The bridge to MLflow's tracking server: client, names, mirror of runs and import."""
