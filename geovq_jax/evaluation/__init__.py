"""Numbers about images, codes and samples: image metrics, likelihood, sample scores, code usage, statistics."""

__all__ = [
    "clustering_scores",
    "code_usage",
    "image_metrics",
    "interpolation",
    "likelihood",
    "memorisation",
    "rate_distortion",
    "sample_scores",
    "statistics",
]
