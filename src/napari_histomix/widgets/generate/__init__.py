"""The Generate dock: layouts, edited by hand and painted; and nuclei painted into real images."""
