"""Diffusion models in pixel space: loading, samplers, the inpainting engine, and training."""
