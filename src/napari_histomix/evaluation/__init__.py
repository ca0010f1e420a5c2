"""How good the parts are, measured on real images: the blend test."""
