"""From labels to tissue and back: nuclei structure, the networks that paint and find nuclei, and layouts to paint."""
