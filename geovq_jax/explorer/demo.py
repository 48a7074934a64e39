"""A built-in latent space that needs no run: a moving spot that dims away from the centre."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax import geometry
from geovq_jax.explorer.space import Draw, Drawn, Space, log_volumes, neighbour_table
from geovq_jax.explorer.views import View, geodesic_view, umap_view
from geovq_jax.geometry.batching import decode_all
from geovq_jax.models.sampling import balanced_labels, truncate

_SIDE = 24
_NUM_CODES = 48
_NUM_CLASSES = 6


def decode(z: Float[Array, "2"]) -> Float[Array, "24 24 1"]:
    """A spot at z in [-1, 1]^2, bright near the origin: f(z)(x) = (0.25 + 0.75 exp(-4 |z|^2)) exp(-8 |x - z|^2).

    A step near the origin changes bright pixels and is long, so geodesics bend around the centre. The image covers
    [-1.3, 1.3]^2, rows from top to bottom.
    """
    side = jnp.linspace(-1.3, 1.3, _SIDE)
    squared = (side[None, :] - z[0]) ** 2 + (-side[:, None] - z[1]) ** 2
    return ((0.25 + 0.75 * jnp.exp(-4.0 * (z @ z))) * jnp.exp(-8.0 * squared))[:, :, None]


def demo_space(*, num_points: int = 3_000, seed: int = 0) -> Space:
    """The moving spot: points uniform in a disc, classes by direction, a geodesic codebook, code counts as prior."""
    rng = np.random.default_rng(seed)
    radius, angle = np.sqrt(rng.uniform(size=num_points)), rng.uniform(0, 2 * np.pi, num_points)
    points = (radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
    labels = (angle * _NUM_CLASSES / (2 * np.pi)).astype(np.int32)
    decode_fn = jax.tree_util.Partial(decode)
    metrics = np.asarray(geometry.node_metrics(decode_fn, points))
    neighbours = neighbour_table(points)
    graph = geometry.metric_graph(points, neighbours[:, :12], metrics, repair=False)
    clusters = geometry.kmedoids(graph, min(_NUM_CODES, num_points), seed=seed)
    pictures = partial(decode_all, decode_fn)
    counts = np.zeros((_NUM_CLASSES, len(clusters.medoids)))
    np.add.at(counts, (labels, clusters.labels), 1.0)

    def draw(settings: Draw, rows: np.ndarray) -> Drawn:
        classes = balanced_labels(settings.number, settings.label, _NUM_CLASSES)[rows]
        log_p = np.log((counts + 1e-3) / (counts + 1e-3).sum(axis=1, keepdims=True))
        free = np.log(counts.sum(axis=0) / counts.sum())
        logits = free[None] + settings.guidance * (log_p[classes] - free[None])
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(settings.seed)))(jnp.asarray(rows))
        codes = np.asarray(jax.vmap(partial(_draw_code, settings))(keys, jnp.asarray(logits)))
        return Drawn(codes, pictures(points[clusters.medoids[codes]]), classes)

    return Space(
        name="a spot that moves",
        subject="each is the position of the spot",
        points=points,
        views=(
            View("latents", points.astype(np.float64), ("latent 1", "latent 2"), linear=True),
            *geodesic_view(graph, np.arange(num_points), seed=seed),
            *umap_view(points, neighbours, metrics, seed=seed),
        ),
        labels=labels,
        codes=clusters.labels.astype(np.int32),
        images=np.arange(num_points),
        class_names=tuple(f"sector {number}" for number in range(_NUM_CLASSES)),
        metrics=metrics,
        log_volume=log_volumes(metrics),
        neighbours=neighbours,
        picture=lambda nodes: pictures(points[np.asarray(nodes)]),
        decoder=lambda node: decode_fn,
        frames=lambda node: None,
        code_pictures=pictures(points[clusters.medoids]),
        vectors=points[clusters.medoids],
        medoids=np.asarray(clusters.medoids, np.int64),
        draw=draw,
        sampling=Draw(-1, 60, 1.0, 0, 1.0, 0.0, 1.0, 0),
    )


def _draw_code(settings: Draw, key: jax.Array, logits: Float[Array, " K"]) -> Array:
    if settings.temperature == 0:
        return jnp.argmax(logits)
    kept = truncate(
        logits / settings.temperature, top_k=settings.top_k or None, top_p=settings.top_p, min_p=settings.min_p or None
    )
    return jax.random.categorical(key, kept)
