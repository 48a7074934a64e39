"""Graphs over latents: neighbours, construction, shortest paths, maps."""
