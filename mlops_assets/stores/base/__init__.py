"""Files that are never half-written, locks of the operating system, and identities of processes."""
