"""Steps of LLM operations: the evaluation of a prompt on the cases of a dataset, the calibration of its judges, and the traces of a service."""
