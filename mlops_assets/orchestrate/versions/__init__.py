"""Steps of versions: registration, approval and the model card."""
