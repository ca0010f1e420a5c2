"""Diffusion models: loading, samplers, and the engine that fills holes."""
