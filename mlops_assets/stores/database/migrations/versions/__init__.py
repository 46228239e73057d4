"""One file for each revision, from the oldest to the newest; what has been published is never changed."""
