"""Atomic file writes, locks of the operating system, identities of processes, and a checksum for JSON."""
