"""The segment pool: browse and curate a segment pool."""
