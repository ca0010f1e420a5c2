"""Nuclei as polygons and back: exact outlines along pixel borders, and the pixels whose centers a polygon holds."""
