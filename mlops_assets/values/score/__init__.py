"""The ML Test Score: the tests of its rubric, and what a project declares about them."""
