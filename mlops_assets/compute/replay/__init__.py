"""Replay: the declared policies, the result of a replay, and the comparison of policies."""
