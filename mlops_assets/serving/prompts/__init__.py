"""The service of a prompt without its transport: variables, chats, quotas, repairs, traces and the OpenAPI document."""
