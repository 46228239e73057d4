"""Five steps that each hand on a number raised by one, in the words of each framework."""
