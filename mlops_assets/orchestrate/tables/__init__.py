"""Steps that write tables of the lake: produce, verify, quarantine, commit; in chunks, from outside, and on a schedule."""
