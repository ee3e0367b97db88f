"""One test file per method."""
