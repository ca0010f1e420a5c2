"""The Pool dock: browse and curate a segment pool."""
