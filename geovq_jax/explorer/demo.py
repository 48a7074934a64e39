"""A built-in latent space for looking around without a run: a bright spot that moves, and dims away from the centre."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax import geometry
from geovq_jax.explorer.space import Draw, Space, View, geodesic_view, log_volumes, neighbour_table
from geovq_jax.models.sampling import truncate

_SIDE = 24
_NUM_CODES = 48
_NUM_CLASSES = 6


def decode(z: Float[Array, "2"]) -> Float[Array, "24 24 1"]:
    """A spot at z in [-1, 1]^2, bright near the origin: f(z)(x) = (0.25 + 0.75 exp(-4 |z|^2)) exp(-8 |x - z|^2).

    A step near the origin changes bright pixels and is long; geodesics bend around the centre. The image covers
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
    decode_all = jax.jit(jax.vmap(decode))
    counts = np.zeros((_NUM_CLASSES, len(clusters.medoids)))
    np.add.at(counts, (labels, clusters.labels), 1.0)

    def draw(settings: Draw) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.arange(_NUM_CLASSES) if settings.label < 0 else np.array([settings.label])
        classes = np.resize(wanted, settings.number)
        log_p = np.log((counts + 1e-3) / (counts + 1e-3).sum(axis=1, keepdims=True))
        free = np.log(counts.sum(axis=0) / counts.sum())
        logits = free[None] + settings.guidance * (log_p[classes] - free[None])
        keys = jax.random.split(jax.random.key(settings.seed), settings.number)
        codes = np.asarray(jax.vmap(partial(_draw_code, settings))(keys, jnp.asarray(logits)))
        return np.asarray(decode_all(points[clusters.medoids[codes]])), classes

    return Space(
        name="a spot that moves",
        subject="a point is the position of the spot",
        points=points,
        views=(
            View("latents", points.astype(np.float64), ("latent 1", "latent 2"), linear=True),
            *geodesic_view(graph, np.arange(num_points), seed=seed),
        ),
        labels=labels,
        codes=clusters.labels.astype(np.int32),
        metrics=metrics,
        log_volume=log_volumes(metrics),
        neighbours=neighbours,
        picture=lambda nodes: np.asarray(decode_all(points[np.asarray(nodes)])),
        decoder=lambda node: decode_fn,
        frames=lambda node: None,
        code_pictures=np.asarray(decode_all(points[clusters.medoids])),
        medoids=np.asarray(clusters.medoids, np.int64),
        draw=draw,
        num_classes=_NUM_CLASSES,
    )


def _draw_code(settings: Draw, key: jax.Array, logits: Float[Array, " K"]) -> Array:
    if settings.temperature == 0:
        return jnp.argmax(logits)
    return jax.random.categorical(key, truncate(logits / settings.temperature, top_p=settings.top_p))
