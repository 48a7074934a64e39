"""Autoregressive prior over code sequences with class embedding: initialisation, logits, loss and likelihood."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Key

from geovq_jax.models.transformer import Architecture, Cache, Transformer

Params = Any


def init(key: Key[Array, ""], arch: Architecture) -> Params:
    """Draw parameters: N(0, 0.02^2), residual projections N(0, 0.02^2 / (2 L)), biases zero.

    ValueError if the sizes are not positive or do not fit each other.
    Reference: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3.
    """
    _check(arch)
    tokens = jnp.zeros((1, arch.length), jnp.int32)
    return Transformer(arch).init(key, tokens, jnp.zeros((1,), jnp.int32), True)["params"]


def logits(
    params: Params, arch: Architecture, codes: Integer[Array, " t"], label: Integer[Array, ""] | int
) -> Float[Array, "t k"]:
    """Unnormalised log-probabilities over the K codes at every position of one sequence, given the codes before it.

    The entry at position i changes only the rows after i. ValueError if there are more than arch.length codes.
    """
    return _batch_logits(params, arch, codes[None], jnp.asarray(label)[None])[0]


def loss(
    key: Key[Array, ""],
    params: Params,
    arch: Architecture,
    codes: Integer[Array, "b t"],
    labels: Integer[Array, " b"],
    *,
    label_smoothing: float = 0.0,
    label_dropout: float = 0.0,
    train: bool = True,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy of a code given the codes before it, in nats per code.

    (1 - s) * -log p(c_i | c_<i) + s * mean over k of -log p(k | c_<i), averaged over all codes.

    Args:
        key: for dropout; unused when `train` is False.
        label_smoothing: s in [0, 1).
        label_dropout: probability that a label is replaced by `arch.no_class`, for classifier-free guidance.
        train: whether dropout, label dropout and label smoothing act.

    Returns:
        Loss, and metrics `bits_per_code` (never smoothed) and `accuracy` (share of codes that were the most likely).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"expected label_smoothing in [0, 1), got {label_smoothing}; 0 turns it off")
    if not 0 <= label_dropout <= 1:
        raise ValueError(f"expected label_dropout in [0, 1], got {label_dropout}; 0 turns it off")
    dropout_key = None
    if train:
        dropout_key, label_key = jax.random.split(key)
        labels = jnp.where(jax.random.bernoulli(label_key, label_dropout, labels.shape), arch.no_class, labels)
    log_p = jax.nn.log_softmax(_batch_logits(params, arch, codes, labels, dropout_key))
    value = nats = -_choose(log_p, codes).mean()
    if train and label_smoothing > 0:
        value = (1 - label_smoothing) * nats - label_smoothing * log_p.mean()
    return value, {"bits_per_code": nats / math.log(2), "accuracy": (log_p.argmax(axis=-1) == codes).mean()}


def log_probabilities(
    params: Params, arch: Architecture, codes: Integer[Array, "b t"], labels: Integer[Array, " b"]
) -> Float[Array, "b t"]:
    """log p(c_i | c_<i, label) of every code, in nats, without dropout."""
    return _choose(jax.nn.log_softmax(_batch_logits(params, arch, codes, labels)), codes)


def candidate_costs(
    params: Params, arch: Architecture, codes: Integer[Array, " t"], label: Integer[Array, ""] | int
) -> Float[Array, "t k"]:
    """Code length in nats of a sequence for every alternative code at each position, up to a constant per position.

    -log p(c | c_<i, label), exactly, plus the cost of the positions after i, to first order in the embedding of c_i.
    """
    codes = codes.astype(jnp.int32)
    tokens = jnp.pad(codes, (1, 0), constant_values=arch.bos)[None, :-1]
    apply: Any = Transformer(arch).apply

    def nats(shift: Float[Array, "1 t d"]) -> tuple[Float[Array, ""], Float[Array, "t k"]]:
        variables = {"params": params, "perturbations": {"embedded": shift}}
        log_p = jax.nn.log_softmax(apply(variables, tokens, jnp.asarray(label)[None], True)[0])
        return -_choose(log_p, codes).sum(), log_p

    embeddings = params["tokens"]
    slope, log_p = jax.grad(nats, has_aux=True)(jnp.zeros((1, *embeddings[codes].shape), embeddings.dtype))
    seen_by_later = jnp.pad(slope[0, 1:], ((0, 1), (0, 0)))  # the input after place i is the code at place i
    return seen_by_later @ embeddings[: arch.num_codes].T - log_p


def empty_cache(params: Params, arch: Architecture, batch_size: int) -> list[Cache]:
    """Zeroed cache of every block for a batch of sequences."""
    dtype = jnp.bfloat16 if arch.bfloat16 else params["tokens"].dtype
    shape = (batch_size, arch.num_heads, arch.length, arch.embed_dim // arch.num_heads)
    return [Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(arch.num_layers)]


def cached_logits(
    params: Params,
    arch: Architecture,
    tokens: Integer[Array, " b"],
    labels: Integer[Array, " b"],
    caches: list[Cache],
    position: Int[Array, ""],
) -> tuple[Float[Array, "b k"], list[Cache]]:
    """Logits of the codes at `position` from the token before it and one cache per block of all earlier positions.

    `tokens` holds the codes at position - 1, or `arch.bos` at position 0. The returned caches include this position.
    """
    apply: Any = Transformer(arch).apply
    return apply({"params": params}, tokens, labels, caches, position, method="step")


def _batch_logits(
    params: Params,
    arch: Architecture,
    codes: Integer[Array, "b t"],
    labels: Integer[Array, " b"],
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "b t k"]:
    if codes.shape[1] > arch.length:
        raise ValueError(f"expected at most {arch.length} codes, got {codes.shape[1]}; raise Architecture.length")
    # The input at place i is the code before it, so that BOS predicts the first code.
    tokens = jnp.pad(codes.astype(jnp.int32), ((0, 0), (1, 0)), constant_values=arch.bos)[:, :-1]
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    apply: Any = Transformer(arch).apply
    return apply({"params": params}, tokens, labels.astype(jnp.int32), dropout_key is None, rngs=rngs)


def _choose(log_p: Float[Array, "*t k"], codes: Integer[Array, "*t"]) -> Float[Array, "*t"]:
    """Entries of log_p at the codes."""
    return jnp.take_along_axis(log_p, codes[..., None].astype(jnp.int32), axis=-1)[..., 0]


def _check(arch: Architecture) -> None:
    for name in ("num_codes", "length", "embed_dim", "num_layers", "num_heads", "mlp_ratio"):
        if getattr(arch, name) < 1:
            raise ValueError(f"expected {name} >= 1, got {getattr(arch, name)}; raise it")
    if arch.num_classes < 0:
        raise ValueError(f"expected num_classes >= 0, got {arch.num_classes}; 0 is an unconditional prior")
    if arch.embed_dim % arch.num_heads:
        raise ValueError(
            f"expected num_heads that divides embed_dim, got {arch.num_heads} and {arch.embed_dim}; change one of them"
        )
    if not 0 <= arch.dropout < 1:
        raise ValueError(f"expected dropout in [0, 1), got {arch.dropout}; 0 turns it off")
    if arch.grid is not None and arch.grid[0] * arch.grid[1] != arch.length:
        raise ValueError(
            f"expected grid (h, w) with h * w = length = {arch.length}, got {arch.grid}; change grid or length"
        )
