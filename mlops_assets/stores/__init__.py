"""Stores: one small protocol each for lake, registry, tracker and artifacts, and its adapters."""
