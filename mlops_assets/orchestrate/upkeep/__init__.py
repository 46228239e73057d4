"""Maintenance of a platform: upkeep of the lake, erasure of an entity, and the doctor."""
