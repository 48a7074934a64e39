"""Terms of the autoencoder's training loss: reconstruction, rate and their schedules, each a pure function.

Sums run over pixels and latent dimensions, means over the batch. Rates are in nats unless a name says bits.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

RECONSTRUCTIONS = ("bernoulli", "mse", "l1", "calibrated")


class Objective(NamedTuple):
    """Terms of the loss; hashable.

    Attributes:
        loss: "bernoulli" (cross-entropy with logits), "mse", "l1" or "calibrated" (Gaussian with the optimal variance).
        beta: weight of the rate term; `anneal_steps`: it grows linearly from 0 over these steps, 0 for none.
        free_bits: nats per latent dimension without cost.
        capacity: total rate in nats that the loss steers to, None for the plain rate; `capacity_steps`: it grows
            linearly from 0 over these steps, 0 for none.
        capacity_mode: "abs" penalises |rate - capacity|, "clipped" only the excess.
        cell_bits: rate in bits that the loss steers each latent vector to, in the same mode; excludes capacity.
    """

    loss: str = "bernoulli"
    beta: float = 1.0
    anneal_steps: int = 0
    free_bits: float = 0.0
    capacity: float | None = None
    capacity_steps: int = 0
    capacity_mode: str = "abs"
    cell_bits: float | None = None


def check_choices(settings: tuple[Any, ...], choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raise ValueError for a field whose value is not among its choices."""
    for field, known in choices.items():
        if getattr(settings, field) not in known:
            raise ValueError(
                f"expected {field} to be one of {', '.join(known)}, got {getattr(settings, field)!r}; choose one"
            )


def check(objective: Objective) -> None:
    """ValueError for an invalid objective, naming the field and its choices."""
    check_choices(objective, {"loss": RECONSTRUCTIONS, "capacity_mode": ("abs", "clipped")})
    if objective.capacity is not None and objective.cell_bits is not None:
        raise ValueError("expected at most one of capacity and cell_bits, got both; set one to None")


def without_annealing(objective: Objective) -> Objective:
    """The same objective at the end of its schedules, by which checkpoints are compared on the validation split."""
    return objective._replace(anneal_steps=0, capacity_steps=0)


def bernoulli_loss(logits: Float[Array, "b h w c"], images: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Cross-entropy with logits per image: -x log s(l) - (1 - x) log(1 - s(l)) = softplus(l) - x l."""
    return jnp.sum(jax.nn.softplus(logits) - images * logits) / images.shape[0]


def calibrated_loss(pixels: Float[Array, "b h w c"], images: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Gaussian negative log likelihood at the variance that minimises it: D/2 (log(2 pi mse) + 1) for D pixels.

    Reference: Rybkin, Daniilidis & Levine 2021, "Simple and effective VAE training with calibrated decoders",
    section 4.2.
    """
    size = images[0].size
    variance = jnp.maximum(jnp.mean(jnp.square(pixels - images)), 1e-8)
    return 0.5 * size * (jnp.log(2.0 * math.pi * variance) + 1.0)


def reconstruction(
    objective: Objective,
    logits: Float[Array, "b h w c"],
    pixels: Float[Array, "b h w c"],
    images: Float[Array, "b h w c"],
) -> Float[Array, ""]:
    """The reconstruction term selected by `objective.loss`, batch mean; in nats for "bernoulli" and "calibrated".

    `logits` and `pixels` are the decoder's outputs before and after the output map, `images` lie in [0, 1].
    """
    if objective.loss == "bernoulli":
        return bernoulli_loss(logits, images)
    if objective.loss == "calibrated":
        return calibrated_loss(pixels, images)
    distance = jnp.square if objective.loss == "mse" else jnp.abs
    return jnp.sum(distance(pixels - images)) / images.shape[0]


def mean_psnr(pixels: Float[Array, "b h w c"], images: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Mean over images of -10 log10 of the mean squared error, in dB; 100 at most."""
    squared = jnp.mean(jnp.square(pixels - images), axis=(1, 2, 3))
    return jnp.mean(-10.0 * jnp.log10(jnp.maximum(squared, 1e-10)))


def gaussian_kl(mean: Float[Array, "*shape"], log_variance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """KL(N(mean, variance) || N(0, 1)) per dimension, 1/2 (mean^2 + variance - log variance - 1) nats."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1.0)


def linear_ramp(step: Int[Array, ""] | int, steps: int) -> Float[Array, ""]:
    """min(step / steps, 1); 1 where steps is 0."""
    return jnp.minimum(jnp.asarray(step, float) / steps, 1.0) if steps else jnp.asarray(1.0)


def rate(objective: Objective, kl: Float[Array, "b *latent d"], step: Int[Array, ""] | int) -> Float[Array, ""]:
    """The weighted rate term of the objective, in nats, from the nats per latent dimension.

    Batch means of the KL come first; then free bits act on each dimension (Kingma et al. 2016, equation 15), the
    capacity on their sum (Burgess et al. 2018, equation 8) or, for `cell_bits`, on the sum of each latent vector.
    """
    dims = jnp.mean(kl, axis=0)
    if objective.free_bits:
        dims = jnp.maximum(dims, objective.free_bits)
    weight = objective.beta * linear_ramp(step, objective.anneal_steps)
    if objective.cell_bits is not None:
        gap = jnp.sum(dims, axis=-1) - objective.cell_bits * math.log(2.0)
    elif objective.capacity is not None:
        gap = jnp.sum(dims) - objective.capacity * linear_ramp(step, objective.capacity_steps)
    else:
        return weight * jnp.sum(dims)
    return weight * jnp.sum(jnp.abs(gap) if objective.capacity_mode == "abs" else jnp.maximum(gap, 0.0))
