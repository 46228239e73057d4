"""Language models behind an endpoint, their completions, prompts, answers, services and spans."""
