"""The Mix dock: replace segments, one or many, and review what came of it."""
