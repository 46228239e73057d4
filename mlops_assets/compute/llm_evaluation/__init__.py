"""Evaluation of LLM answers: verdicts of judges and their calibration, scores, paired comparisons, and the cost of calls."""
