"""The run tracker: active runs, buffered writes, queries and filters."""
