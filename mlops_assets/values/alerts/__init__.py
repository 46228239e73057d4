"""Alerts: channels, silences and severities that a project declares, and the episodes that are recorded."""
