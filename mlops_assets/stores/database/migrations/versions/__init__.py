"""One file for each revision, from the oldest to the newest; a published file is never changed."""
