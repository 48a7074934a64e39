"""The metric that a decoder induces on its latent space, and scalars derived from it.

Every output metric is given as a map of x-space into a space where distance is Euclidean, and is composed with the
decoder; lengths, graphs and geodesics then need no argument for it. Equation numbers refer to docs/geometry.md.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

DecodeFn = Callable[..., Any]
Vector = Float[Array | np.ndarray, " d"]
Metrics = Float[Array | np.ndarray, "*batch d d"]


def safe_sqrt(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """sqrt(max(x, 0)) with derivatives zero at zero and below, where rounding may put x; NaN for NaN and -infinity."""
    # NaN is not <= 0: a comparison x > 0 would turn it into a length of zero.
    zero = (x <= 0) & jnp.isfinite(x)
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def safe_norm(tree: Any) -> Float[Array, ""]:
    """Euclidean norm of a pytree of real arrays, with derivative zero at zero, equation (3)."""
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    return safe_sqrt(sum(squares[1:], start=squares[0]))


def gram(columns: Any) -> Float[Array, "d d"]:
    """Inner products of the d columns of the Jacobian, summed over the leaves [d, ...], equation (2)."""
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(columns)]
    # On accelerators the default precision rounds inputs to 10 bits, which a condition number of 1e3 does not survive.
    products = [jnp.einsum("ip,jp->ij", leaf, leaf, precision=jax.lax.Precision.HIGHEST) for leaf in flat]
    return sum(products[1:], start=products[0])


def pullback_metric(decode_fn: DecodeFn, z: Vector) -> Float[Array, "d d"]:
    """Metric tensor that the decoder induces at one latent.

    G(z) = J(z)' J(z), J = df/dz, equation (1).

    The decoder may return any pytree of real arrays, whose leaves add up: a decoder that returns (mean, std) gives
    J_mean' J_mean + J_std' J_std, the expected metric of a Gaussian decoder, equation (8).

    Args:
        decode_fn: map of one latent [d] to an array of any shape, or to a pytree of arrays.
        z: the latent, [d].

    Returns:
        Symmetric positive semi-definite matrix [d, d], in squared units of x per squared unit of z.

    Reference:
        Arvanitidis, Hansen, Hauberg, "Latent space oddity" (2018), equations 5 and 16.

    Example:
        >>> paraboloid = lambda z: jnp.array([z[0], z[1], z[0] ** 2 + z[1] ** 2])
        >>> pullback_metric(paraboloid, jnp.array([1.0, 0.0])).tolist()
        [[5.0, 0.0], [0.0, 1.0]]
    """
    z = jnp.asarray(z)
    _, push_forward = jax.linearize(decode_fn, z)
    # The basis does not depend on z: under vmap over latents the layers before the first nonlinearity process it once.
    return gram(jax.vmap(push_forward)(jnp.eye(z.shape[0], dtype=z.dtype)))


def speed(decode_fn: DecodeFn, z: Vector, v: Vector) -> Float[Array, ""]:
    """Length of a latent velocity in the pull-back metric.

    |v|_z = |J(z) v| = sqrt(v' G(z) v), equation (3), by one forward-mode product.

    Args:
        decode_fn: map of one latent [d] to an array or a pytree of arrays.
        z, v: the latent and the velocity there, [d].

    Returns:
        Speed in units of x; its derivative at v = 0 is defined as zero.

    Example:
        >>> stretch = lambda z: jnp.array([3.0 * z[0], 4.0 * z[1]])
        >>> float(speed(stretch, jnp.zeros(2), jnp.ones(2)))
        5.0
    """
    z = jnp.asarray(z)
    return safe_norm(jax.jvp(decode_fn, (z,), (jnp.asarray(v, z.dtype),))[1])


def _eigenvalues(metric: Metrics) -> Float[Array, "*batch d"]:
    metric = jnp.asarray(metric)
    # What LAPACK returns for a matrix with NaN or infinity depends on its build.
    finite = jnp.isfinite(metric).all(axis=(-2, -1))[..., None]
    return jnp.where(finite, jnp.maximum(jnp.linalg.eigvalsh(metric), 0.0), jnp.nan)


def log_volume(metric: Metrics) -> Float[Array, "*batch"]:
    """Logarithm of the volume element, equation (4); it does not underflow in many dimensions.

    Args:
        metric: metric tensors [..., d, d].

    Returns:
        1/2 log det G, with eigenvalues below eps * lambda_max replaced by that resolution.

    Example:
        >>> round(float(log_volume(jnp.diag(jnp.array([9.0, 16.0])))), 3)  # log 12
        2.485
    """
    eigenvalues = _eigenvalues(metric)
    floor = jnp.finfo(eigenvalues.dtype).eps * eigenvalues[..., -1:] + jnp.finfo(eigenvalues.dtype).tiny
    return 0.5 * jnp.sum(jnp.log(jnp.maximum(eigenvalues, floor)), axis=-1)


def volume(metric: Metrics) -> Float[Array, "*batch"]:
    """Volume element: the volume in x-space of a unit cube of latents, sqrt(det G), equation (4).

    Args:
        metric: metric tensors [..., d, d].

    Returns:
        Volumes [...], in units of x to the power d.

    Example:
        >>> round(float(volume(jnp.diag(jnp.array([9.0, 16.0])))), 3)
        12.0
    """
    return jnp.exp(log_volume(metric))


def condition_number(metric: Metrics) -> Float[Array, "*batch"]:
    """Ratio of the largest to the smallest eigenvalue of the metric, equation (5).

    Args:
        metric: metric tensors [..., d, d].

    Returns:
        Condition numbers [...], at most 1 / eps of the number type: smaller eigenvalues are rounding errors.

    Example:
        >>> float(condition_number(jnp.diag(jnp.array([4.0, 16.0]))))
        4.0
    """
    eigenvalues = _eigenvalues(metric)
    largest = jnp.where(eigenvalues[..., -1] <= 0, 1.0, eigenvalues[..., -1])
    return 1.0 / jnp.maximum(eigenvalues[..., 0] / largest, jnp.finfo(eigenvalues.dtype).eps)


def effective_rank(metric: Metrics) -> Float[Array, "*batch"]:
    """Number of latent directions that the decoder uses, equation (6).

    exp(- sum_i p_i log p_i), p_i = lambda_i / sum_j lambda_j.

    Args:
        metric: metric tensors [..., d, d].

    Returns:
        Effective ranks [...], from 1 to d; 1 where the metric is zero.

    Reference:
        Roy, Vetterli, "The effective rank" (2007), equation 4, with eigenvalues of G for singular values.

    Example:
        >>> [round(float(effective_rank(jnp.diag(jnp.array(values)))), 3) for values in ([2.0, 2.0], [2.0, 0.0])]
        [2.0, 1.0]
    """
    eigenvalues = _eigenvalues(metric)
    total = jnp.sum(eigenvalues, axis=-1, keepdims=True)
    share = eigenvalues / jnp.where(total <= 0, 1.0, total)
    unused = share <= 0
    return jnp.exp(-jnp.sum(jnp.where(unused, 0.0, share * jnp.log(jnp.where(unused, 1.0, share))), axis=-1))


def with_output_metric(decode_fn: DecodeFn, output_map: Callable[[Any], Any]) -> DecodeFn:
    """Decoder whose pull-back metric measures x by another metric, equation (7).

    J' M(x) J with M = (d phi)' (d phi): the decoder is followed by phi, an isometry of x-space with metric M.
    The identity gives the pixel metric, `bernoulli_map` the Fisher metric of pixel probabilities, and a feature
    extractor distances between features.

    Args:
        decode_fn: map of one latent to x.
        output_map: phi, a differentiable map of one x to an array or a pytree of arrays.

    Returns:
        The map z -> phi(decode_fn(z)), for use wherever a decode_fn is.

    Example:
        >>> decode = lambda z: jax.nn.sigmoid(z)  # one pixel, a probability
        >>> fisher = with_output_metric(decode, bernoulli_map)
        >>> round(float(pullback_metric(fisher, jnp.zeros(1))[0, 0]), 3)  # p (1 - p) for a logit
        0.25
    """
    return jax.tree_util.Partial(_composed, as_pytree(decode_fn), as_pytree(output_map))


def _composed(decode_fn: DecodeFn, output_map: DecodeFn, z: Array) -> Any:
    return output_map(decode_fn(z))


def bernoulli_map(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Isometry of pixel probabilities with the Fisher metric into Euclidean space, equation (9).

    phi(p) = 2 arcsin(sqrt(p)), so phi'(p)^2 = 1 / (p (1 - p)), the Fisher information of a Bernoulli variable.

    Args:
        x: pixel probabilities of any shape; values within 1e-6 of 0 or 1 count as saturated, with derivative zero.

    Returns:
        Angles from 0 to pi, in nats^(1/2).

    Reference:
        Arvanitidis et al., "Pulling back information geometry" (2022), table 1.

    Example:
        >>> [round(float(angle), 2) for angle in bernoulli_map(jnp.array([0.0, 0.5, 1.0]))]
        [0.0, 1.57, 3.14]
    """
    margin = 1e-6
    p = jnp.clip(x, margin, 1.0 - margin)
    return 2.0 * jnp.arctan2(jnp.sqrt(p), jnp.sqrt(1.0 - p))


def ensemble(decode: Callable[[Any, Array], Any], parameters: Any) -> DecodeFn:
    """Decoder whose pull-back metric is the mean over an ensemble, equation (10).

    G(z) = 1/m sum_i J_i(z)' J_i(z): the outputs of the m members side by side, each divided by sqrt(m).

    Args:
        decode: map (parameters of one member, one latent) to x.
        parameters: pytree of arrays [m, ...], the members' parameters stacked.

    Returns:
        Map of one latent to all members' scaled outputs, for use wherever a decode_fn is.

    Raises:
        ValueError: if the leaves of `parameters` have no common leading axis.

    Example:
        >>> members = ensemble(lambda scale, z: scale * z, jnp.array([1.0, 3.0]))
        >>> round(float(pullback_metric(members, jnp.zeros(1))[0, 0]), 3)  # (1 + 9) / 2
        5.0
    """
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(parameters)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"expected parameters stacked along a common first axis, got {sizes}; stack the members")
    return jax.tree_util.Partial(_ensemble_output, as_pytree(decode), parameters)


def _ensemble_output(decode: Callable[[Any, Array], Any], parameters: Any, z: Array) -> Any:
    outputs = jax.vmap(decode, in_axes=(0, None))(parameters, z)
    return jax.tree.map(lambda x: x / jnp.sqrt(jnp.asarray(x.shape[0], x.dtype)), outputs)


def as_pytree(function: Callable[..., Any]) -> jax.tree_util.Partial:
    """The function as a pytree, an argument that jit accepts; a `jax.tree_util.Partial` is returned as it is.

    Arrays that a Partial binds are traced, so new parameters need no new compilation; those that a closure captures
    are constants.
    """
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)


@dataclass(frozen=True)
class _Bound:
    """A function with its first argument; unlike `functools.partial`, equal to others of equal parts."""

    function: Callable[..., Any]
    static: Hashable

    def __call__(self, *others: Any) -> Any:
        return self.function(self.static, *others)


def bind_static(function: Callable[..., Any], static: Hashable, *arrays: Any) -> jax.tree_util.Partial:
    """The function with a static first argument and the arrays after it, as a pytree of the arrays.

    Calls with equal static arguments give equal structures, so that jit compiles once for all arrays.
    """
    return jax.tree_util.Partial(_Bound(function, static), *arrays)
