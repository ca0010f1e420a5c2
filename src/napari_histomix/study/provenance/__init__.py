"""From an export's manifest back to its pixels: made again from their sources, and traced to where they come from."""
