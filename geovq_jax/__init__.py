"""Geodesic vector quantization of generative latent spaces."""

__version__ = "0.1.0"
