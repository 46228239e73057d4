"""Logs of predictions and pushed rows: appended, checked for damage, erased in place, and read into the lake."""
