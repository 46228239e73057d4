"""Content-addressed artifacts, in a folder or on S3."""
