"""Drift of a window from the reference of a version: profiles, statistics and calibrated thresholds."""
