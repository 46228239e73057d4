"""Language models behind an endpoint, their completions, prompts, answers, judges, services and spans."""
