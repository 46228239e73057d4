"""Expectations of a monitor, one in each module."""
