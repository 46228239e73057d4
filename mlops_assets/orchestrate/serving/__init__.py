"""Steps of services: deploy a version, import its predictions, and repair services that do not run."""
