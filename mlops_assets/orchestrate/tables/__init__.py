"""Steps that write tables of the lake: make, check, quarantine and commit rows, backfill in chunks, read external tables, automate."""
