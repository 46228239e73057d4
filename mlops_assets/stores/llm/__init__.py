"""Language models: the response cache, and the budget ledger of a service."""
