"""Training and evaluation: splits, metrics, intervals, gates, leakage, importance, search and environments."""
