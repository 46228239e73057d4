"""Steps of LLM operations: the evaluation of a prompt on the cases of a dataset, and the traces of a service."""
