"""Logs of predictions, pushed rows and traces: appended, checked for damage, erased in place, and read into the lake."""
