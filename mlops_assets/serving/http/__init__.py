"""The service: ASGI application, server, workers, supervisor, its files, metrics and OpenAPI document."""
