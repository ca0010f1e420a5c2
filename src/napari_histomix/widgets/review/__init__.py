"""Review of synthetic nuclei: one after the other or many at once, with the mouse or with keys alone."""
