"""Services of models and prompts: ASGI applications, server, workers, supervisor, their files, metrics and OpenAPI document."""
