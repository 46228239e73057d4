"""The report on the candidate of a pull request."""
