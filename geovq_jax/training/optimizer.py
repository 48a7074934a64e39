"""AdamW with gradient clipping and a learning-rate schedule."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree


def make_schedule(
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    schedule: str = "cosine",
) -> optax.Schedule:
    """Learning rate as a function of the step: linear warm-up from 0 to `learning_rate`, then the named decay.

    Args:
        num_steps: length of training; "cosine" reaches 0 there.
        warmup_steps: less than num_steps.
        schedule: "cosine", "step", which halves the rate after each third of the training, or "constant".
    """
    if not 0 <= warmup_steps < num_steps:
        raise ValueError(
            f"expected 0 <= warmup_steps < num_steps = {num_steps}, got {warmup_steps}; lower warmup_steps"
        )
    length = num_steps - warmup_steps
    if schedule == "cosine":
        decay = optax.cosine_decay_schedule(learning_rate, length)
    elif schedule == "step":
        decay = optax.exponential_decay(learning_rate, max(length // 3, 1), 0.5, staircase=True)
    elif schedule == "constant":
        decay = optax.constant_schedule(learning_rate)
    else:
        raise ValueError(f"expected schedule to be cosine, step or constant, got {schedule!r}; choose one")
    if not warmup_steps:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), decay], [warmup_steps])


def matrices_only(params: PyTree) -> PyTree:
    """True for kernels, False for biases and scales: the parameters that decay."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def make_optimizer(
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    decay_mask: Callable[[PyTree], PyTree] | PyTree | None = None,
) -> optax.GradientTransformation:
    """AdamW on gradients clipped by their global norm (Loshchilov & Hutter 2019).

    Args:
        learning_rate, num_steps, warmup_steps, schedule: see `make_schedule`.
        weight_decay: decoupled decay, times the learning rate.
        clip_norm: largest global norm of a gradient; None for no clipping.
        decay_mask: which parameters decay, a pytree of bools or a function to one; kernels only by default.
    """
    rate = make_schedule(
        learning_rate=learning_rate,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        schedule=schedule,
    )
    adamw = optax.adamw(rate, weight_decay=weight_decay, mask=matrices_only if decay_mask is None else decay_mask)
    return adamw if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
