"""The online feature store: one protocol, packed records, and the stores on LMDB and Redis."""
