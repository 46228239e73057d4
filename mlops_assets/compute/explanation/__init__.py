"""Explanation: what the drift of columns cost a metric."""
