"""Figures from arrays, in one style; each returns a matplotlib `Figure`."""

from geovq_jax.figures.comparison import comparison, distance_histogram, elbow, rate_distortion
from geovq_jax.figures.images import (
    code_atlas,
    code_usage,
    image_grid,
    interpolation_strips,
    position_maps,
    training_curves,
)
from geovq_jax.figures.latents import ball_map, connectivity_bars, edge_scatter, latent_map
from geovq_jax.figures.plane import metric_ellipses, volume_map, voronoi_map
from geovq_jax.figures.style import figure_png

__all__ = [
    "ball_map",
    "code_atlas",
    "code_usage",
    "comparison",
    "connectivity_bars",
    "distance_histogram",
    "edge_scatter",
    "elbow",
    "figure_png",
    "image_grid",
    "interpolation_strips",
    "latent_map",
    "metric_ellipses",
    "position_maps",
    "rate_distortion",
    "training_curves",
    "volume_map",
    "voronoi_map",
]
