"""Predictions in batch and their tables: the step that predicts, the tables, and the rows that a version was fitted on."""
