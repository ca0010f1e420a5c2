"""The Mix dock: replace one segment of tissue by a donor that a person chooses."""
