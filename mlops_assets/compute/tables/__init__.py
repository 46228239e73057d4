"""Rules, quality limits, quarantine and content hashes of rows, and conversions between frames of different libraries."""
