"""Gates: rules that a candidate must pass before it can be registered."""
