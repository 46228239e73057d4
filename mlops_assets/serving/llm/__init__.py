"""The client of OpenAI-compatible endpoints: retries, fallbacks, limits, streams and checks of replies."""
