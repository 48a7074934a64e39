"""The methods as an estimator in the style of scikit-learn."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from geovq_jax.geometry import kmedoids, knn, knn_graph, metric_graph, nearest_source, node_metrics
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.quantization import methods
from geovq_jax.quantization.assignment import assign

Metrics = Float[np.ndarray, "n d d"]


class GeodesicQuantizer(ClusterMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Vector quantization of latents in the geometry of a decoder.

    Fitting and coding are those of `quantization.methods.fit` and `quantization.assign`. With `decode_fn`, distances
    are those of the decoder; with `metrics` alone, of a decoder outside JAX, the geodesic methods measure along a graph
    of the latents; with neither, distances are Euclidean.

    Args:
        num_codes: K.
        method: name in `quantization.METHODS`.
        num_neighbours: neighbours per node of the graph from which geodesic methods start; None for 8 per dimension,
            from 15 to 60.
        random_state: seed or generator.

    Attributes:
        quantizer_: the fitted `Quantizer`.
        code_vectors_: code vectors, latents [K, d].
        labels_: code of each latent that it was fitted to, [n].
        decode_fn_: the decoder; the identity where none was given.

    Example:
        >>> latents = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
        >>> decode = lambda z: jnp.stack([jnp.cos(z[0]), jnp.sin(z[0]), 2.0 * z[1]])
        >>> quantizer = GeodesicQuantizer(num_codes=4, random_state=0).fit(latents, decode_fn=decode)
        >>> codes = quantizer.predict(latents)
        >>> quantizer.inverse_transform(codes).shape
        (60, 2)
    """

    def __init__(
        self,
        num_codes: int = 8,
        *,
        method: str = "geodesic",
        num_neighbours: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.num_codes = num_codes
        self.method = method
        self.num_neighbours = num_neighbours
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any = None, *, decode_fn: DecodeFn | None = None, metrics: Metrics | None = None
    ) -> "GeodesicQuantizer":
        """Fits the codebook.

        Args:
            X: latents, [n, d].
            y: ignored.
            decode_fn: map of one latent [d] to x, in JAX.
            metrics: pull-back metric at each latent; computed from `decode_fn` where a method needs it.

        Raises:
            ValueError: latents or metrics of another form, fewer latents than codes, an unknown method, a method that
                decodes where only metrics are given.
        """
        latents = validate_data(self, X, dtype=jnp.result_type(float))
        n, d = latents.shape
        if not 1 <= self.num_codes <= n:
            raise ValueError(
                f"expected 1 <= num_codes <= n_samples = {n}, got {self.num_codes}; lower it or fit to more latents"
            )
        if self.method not in methods.METHODS:
            raise ValueError(f"expected a method among {', '.join(methods.METHODS)}, got {self.method!r}; choose one")
        method = methods.METHODS[self.method]
        metrics = None if metrics is None else _metrics(metrics, n, d)
        only_metrics = decode_fn is None and metrics is not None
        if only_metrics and (method.assignment == "decoded" or self.method == "geodesic_means"):
            raise ValueError(
                f"expected decode_fn for the method {self.method}, got metrics alone; choose another method"
            )
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.decode_fn_ = _identity if decode_fn is None else decode_fn
        if method.on_metrics and metrics is None:
            metrics = np.asarray(node_metrics(self.decode_fn_, latents))
        nodes = methods.Nodes(
            self.decode_fn_,
            latents,
            metrics=metrics,
            clusters=self._clusters(latents, metrics if only_metrics else None, seed) if method.on_graph else None,
            graph_metrics=metrics if only_metrics else None,
            distance="graph" if only_metrics else "geodesic",
        )
        self.quantizer_, encoded = methods.fit(self.method, nodes, self.num_codes, seed=seed)
        self.code_vectors_, self.labels_ = self.quantizer_.vectors, encoded.codes
        return self

    def _clusters(self, latents: np.ndarray, metrics: np.ndarray | None, seed: int) -> methods.Clusters:
        """K-medoids of the graph, measured by the metrics alone where there is no decoder."""
        n, d = latents.shape
        if self.num_codes == n:
            return methods.Clusters(np.arange(n), np.arange(n, dtype=np.int32), np.zeros(n))
        k = min(self.num_neighbours or min(max(15, 8 * d), 60), n - 1)
        if metrics is None:
            graph = knn_graph(latents, k, decode_fn=self.decode_fn_)
        else:
            graph = metric_graph(latents, knn(latents, k).indices, metrics)
        found = kmedoids(graph, self.num_codes, seed=seed)
        return methods.Clusters(found.medoids, found.labels, np.asarray(nearest_source(graph, found.medoids).distance))

    def predict(self, X: Any, *, metrics: Metrics | None = None) -> Int[np.ndarray, " n"]:
        """Code of each latent.

        Args:
            X: latents, [n, d].
            metrics: pull-back metric at each of them, needed where codes depend on it and no decoder was given.

        Returns:
            Codes int32 in [0, K).
        """
        check_is_fitted(self)
        latents = validate_data(self, X, dtype=jnp.result_type(float), reset=False)
        metrics = None if metrics is None else _metrics(metrics, *latents.shape)
        return assign(self.quantizer_, latents, self.decode_fn_, metrics=metrics).codes

    def transform(self, X: Any) -> Int[np.ndarray, "n 1"]:
        """Codes of latents as one column, [n, 1]."""
        return self.predict(X)[:, None]

    def inverse_transform(self, X: Any) -> Float[np.ndarray, "n d"]:
        """Code vectors of codes, [n] or [n, 1]."""
        check_is_fitted(self)
        codes = check_array(X, ensure_2d=False, dtype=np.int64).ravel()
        if codes.min() < 0 or codes.max() >= len(self.code_vectors_):
            raise ValueError(
                f"expected codes in [0, {len(self.code_vectors_)}), got {codes.min()} to {codes.max()}; pass those of "
                "predict or transform"
            )
        return self.code_vectors_[codes]

    @property
    def _n_features_out(self) -> int:
        return 1


def _identity(z: Array) -> Array:
    return z


def _metrics(metrics: Any, n: int, d: int) -> Metrics:
    if np.shape(metrics) != (n, d, d):
        raise ValueError(f"expected metrics [{n}, {d}, {d}], got shape {np.shape(metrics)}; pass one per latent")
    return np.asarray(metrics)
