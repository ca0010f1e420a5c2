"""The dock of the reader test: make a test, answer it, see the report."""
