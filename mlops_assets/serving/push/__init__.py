"""Pushed rows: their specification, verification, and the HTTP endpoint that takes them."""
