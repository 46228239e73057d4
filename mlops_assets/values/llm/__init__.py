"""Language models behind an endpoint, their completions, prompts and answers."""
