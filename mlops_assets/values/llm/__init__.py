"""Language models behind an endpoint, and their completions."""
