"""Replay: what retraining policies would have done in the past."""
