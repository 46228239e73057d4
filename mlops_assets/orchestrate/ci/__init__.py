"""Train and report the candidate of a pull request."""
