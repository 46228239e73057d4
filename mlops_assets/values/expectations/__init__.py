"""Expectations of a monitor, and objectives of a service."""
