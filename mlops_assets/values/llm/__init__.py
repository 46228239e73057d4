"""Language models behind an endpoint, their completions, prompts, answers and spans."""
