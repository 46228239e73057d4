"""Computations: pure functions over frames and arrays, which neither read nor write a store."""
