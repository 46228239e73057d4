"""Steps of services: deploy a version, collect what was answered, and repair what does not run."""
