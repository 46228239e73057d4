"""The lake: versioned tables on DuckLake, their keys, checksums, erasure, upkeep, and as-of layouts of feature views."""
