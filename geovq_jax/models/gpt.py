"""Autoregressive prior over code sequences: a pre-norm transformer with class embedding (GPT-2)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Scalar

Params = Any
NUM_SPECIAL = 3


class Architecture(NamedTuple):
    """Sizes of the prior.

    The vocabulary is the K codes followed by the special tokens BOS = K, EOS = K + 1 and PAD = K + 2. Special tokens are
    inputs only: the head has one row per code, so none can be predicted or drawn. Label `num_classes` means "no class".

    Attributes:
        num_codes: K, the number of codes.
        length: t, the longest sequence, in codes.
        num_classes: number of classes; 0 for an unconditional prior.
        embed_dim: width of the residual stream.
        num_layers: number of blocks.
        num_heads: attention heads a block; divides `embed_dim`.
        mlp_ratio: width of the hidden layer of a block over `embed_dim`.
        dropout: rate on the embedded input, the attention weights and both residual branches.
        grid: (h, w) with h * w = length for 2-D positions (row embedding + column embedding); None for 1-D positions.
        tied: whether the head is the transposed token embedding.
        bfloat16: whether matrix products run in bfloat16; normalisation, softmax and loss stay in float32.
    """

    num_codes: int
    length: int
    num_classes: int = 0
    embed_dim: int = 192
    num_layers: int = 4
    num_heads: int = 4
    mlp_ratio: int = 4
    dropout: float = 0.1
    grid: tuple[int, int] | None = None
    tied: bool = True
    bfloat16: bool = False

    @property
    def bos(self) -> int:
        """Token that precedes the first code."""
        return self.num_codes

    @property
    def eos(self) -> int:
        """Token reserved for the end of a sequence."""
        return self.num_codes + 1

    @property
    def pad(self) -> int:
        """Token that fills up sequences shorter than `length`; left out of every loss."""
        return self.num_codes + 2

    @property
    def no_class(self) -> int:
        """Label of an unconditional sequence."""
        return self.num_classes


class Cache(NamedTuple):
    """Keys and values of one block, of positions already seen.

    Attributes:
        keys: [b, h, t, c], t = longest sequence, h heads of c channels; contiguous for each head, as products want it.
        values: [b, h, t, c].
    """

    keys: Array
    values: Array


def _attend(
    queries: Float[Array, "b h q c"],
    keys: Float[Array, "b h k c"],
    values: Float[Array, "b h k c"],
    visible: Bool[Array, "q k"],
    dropout: Any,
) -> Float[Array, "b h q c"]:
    """Masked softmax attention; scores and softmax in at least float32."""
    scores = jnp.einsum(
        "bhqc,bhkc->bhqk", queries, keys, preferred_element_type=jnp.promote_types(queries.dtype, jnp.float32)
    )
    scores = scores / np.sqrt(queries.shape[-1])
    weights = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bhkc->bhqc", dropout(weights).astype(values.dtype), values)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    arch: Architecture

    def setup(self) -> None:
        arch = self.arch
        dtype = jnp.bfloat16 if arch.bfloat16 else None
        normal = nn.initializers.normal(0.02)
        # Each of the 2 L residual branches adds its variance to the stream: scaled so that the sum does not grow with depth.
        residual = nn.initializers.normal(0.02 / np.sqrt(2 * arch.num_layers))
        self.norm_attention = nn.LayerNorm(epsilon=1e-5)
        self.query_key_value = nn.Dense(3 * arch.embed_dim, dtype=dtype, kernel_init=normal)
        self.attention_out = nn.Dense(arch.embed_dim, dtype=dtype, kernel_init=residual)
        self.norm_mlp = nn.LayerNorm(epsilon=1e-5)
        self.mlp_in = nn.Dense(arch.mlp_ratio * arch.embed_dim, dtype=dtype, kernel_init=normal)
        self.mlp_out = nn.Dense(arch.embed_dim, dtype=dtype, kernel_init=residual)
        self.dropout = nn.Dropout(arch.dropout)

    def _project(self, x: Float[Array, "b t d"]) -> Float[Array, "3 b h t c"]:
        arch = self.arch
        projected = self.query_key_value(self.norm_attention(x))
        heads = projected.reshape(*x.shape[:2], 3, arch.num_heads, arch.embed_dim // arch.num_heads)
        return heads.transpose(2, 0, 3, 1, 4)

    def _merge(self, attended: Float[Array, "b h t c"]) -> Float[Array, "b t d"]:
        b, _, t, _ = attended.shape
        return self.attention_out(attended.transpose(0, 2, 1, 3).reshape(b, t, self.arch.embed_dim))

    def _mlp(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.mlp_out(nn.gelu(self.mlp_in(self.norm_mlp(x))))

    def __call__(self, x: Float[Array, "b t d"], deterministic: bool) -> Float[Array, "b t d"]:
        def dropout(values):
            return self.dropout(values, deterministic=deterministic)

        queries, keys, values = self._project(x)
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        x = x + dropout(self._merge(_attend(queries, keys, values, causal, dropout)))
        return x + dropout(self._mlp(x))

    def step(
        self, x: Float[Array, "b 1 d"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "b 1 d"], Cache]:
        query, key, value = self._project(x)
        keys = jax.lax.dynamic_update_slice_in_dim(cache.keys, key.astype(cache.keys.dtype), position, axis=2)
        values = jax.lax.dynamic_update_slice_in_dim(cache.values, value.astype(cache.values.dtype), position, axis=2)
        seen = jnp.arange(keys.shape[2])[None] <= position
        x = x + self._merge(_attend(query, keys, values, seen, lambda weights: weights))
        return x + self._mlp(x), Cache(keys, values)


class _Transformer(nn.Module):
    """Tokens and labels to logits over codes."""

    arch: Architecture

    def setup(self) -> None:
        arch = self.arch
        normal = nn.initializers.normal(0.02)
        self.tokens = self.param("tokens", normal, (arch.num_codes + NUM_SPECIAL, arch.embed_dim))
        self.classes = self.param("classes", normal, (arch.num_classes + 1, arch.embed_dim))
        if arch.grid is None:
            self.places = self.param("positions", normal, (arch.length, arch.embed_dim))
        else:
            rows = self.param("rows", normal, (arch.grid[0], arch.embed_dim))
            columns = self.param("columns", normal, (arch.grid[1], arch.embed_dim))
            self.places = (rows[:, None] + columns[None]).reshape(arch.length, arch.embed_dim)
        self.blocks = [_Block(arch, name=f"block_{i}") for i in range(arch.num_layers)]
        self.norm = nn.LayerNorm(epsilon=1e-5)
        if not arch.tied:
            self.head = self.param("head", normal, (arch.num_codes, arch.embed_dim))
        self.dropout = nn.Dropout(arch.dropout)

    def _embed(
        self, tokens: Int[Array, "b t"], labels: Int[Array, " b"], places: Float[Array, "t d"]
    ) -> Float[Array, "b t d"]:
        return self.tokens[tokens] + self.classes[labels][:, None] + places[None]

    def _predict(self, x: Float[Array, "b t d"]) -> Float[Array, "b t k"]:
        head = self.tokens[: self.arch.num_codes] if self.arch.tied else self.head
        x = self.norm(x)
        if self.arch.bfloat16:
            x, head = x.astype(jnp.bfloat16), head.astype(jnp.bfloat16)
        return jnp.einsum("btd,kd->btk", x, head, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))

    def __call__(
        self, codes: Int[Array, "b t"], labels: Int[Array, " b"], deterministic: bool
    ) -> Float[Array, "b t k"]:
        # The input at place i is the code before it, so that BOS predicts the first code.
        tokens = jnp.pad(codes, ((0, 0), (1, 0)), constant_values=self.arch.bos)[:, :-1]
        x = self.dropout(self._embed(tokens, labels, self.places[: codes.shape[1]]), deterministic=deterministic)
        for block in self.blocks:
            x = block(x, deterministic)
        return self._predict(x)

    def step(
        self, tokens: Int[Array, " b"], labels: Int[Array, " b"], caches: list[Cache], position: Int[Array, ""]
    ) -> tuple[Float[Array, "b k"], list[Cache]]:
        place = jax.lax.dynamic_slice_in_dim(self.places, position, 1)
        x = self._embed(tokens[:, None], labels, place)
        updated = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block.step(x, cache, position)
            updated.append(cache)
        return self._predict(x)[:, 0], updated


def init(key: Key[Array, ""], arch: Architecture) -> Params:
    """Draw parameters: N(0, 0.02^2), residual projections N(0, 0.02^2 / (2 L)), biases zero.

    Args:
        key: random key.
        arch: sizes.

    Returns:
        Nested dict of float32 arrays.

    Raises:
        ValueError: if the sizes are not positive or do not fit each other.

    Reference:
        Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3.
    """
    _check(arch)
    codes = jnp.zeros((1, arch.length), jnp.int32)
    labels = jnp.zeros((1,), jnp.int32)
    return _Transformer(arch).init(key, codes, labels, True)["params"]


def logits(
    params: Params, arch: Architecture, codes: Int[Array, " t"], label: Int[Array, ""] | int
) -> Float[Array, "t k"]:
    """Unnormalised log-probabilities of every code at every place of one sequence, given the codes before it.

    Args:
        params: parameters.
        arch: sizes.
        codes: one sequence in raster order, t <= arch.length; the entry at place i changes only the rows after i.
        label: class in [0, num_classes), or `arch.no_class`.

    Returns:
        Logits over the K codes.
    """
    return _batch_logits(params, arch, codes[None], jnp.asarray(label)[None])[0]


def _batch_logits(
    params: Params,
    arch: Architecture,
    codes: Int[Array, "b t"],
    labels: Int[Array, " b"],
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "b t k"]:
    if codes.shape[1] > arch.length:
        raise ValueError(f"expected at most {arch.length} codes, got {codes.shape[1]}; raise Architecture.length")
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return _Transformer(arch).apply(
        {"params": params}, codes.astype(jnp.int32), labels.astype(jnp.int32), dropout_key is None, rngs=rngs
    )


def empty_cache(params: Params, arch: Architecture, batch_size: int) -> list[Cache]:
    """Zeroed cache of every block for a batch of sequences."""
    dtype = jnp.bfloat16 if arch.bfloat16 else params["tokens"].dtype
    shape = (batch_size, arch.num_heads, arch.length, arch.embed_dim // arch.num_heads)
    return [Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(arch.num_layers)]


def cached_logits(
    params: Params,
    arch: Architecture,
    tokens: Int[Array, " b"],
    labels: Int[Array, " b"],
    caches: list[Cache],
    position: Int[Array, ""],
) -> tuple[Float[Array, "b k"], list[Cache]]:
    """Logits of the codes at one place from the token before it and the cache of all earlier ones.

    Args:
        params: parameters.
        arch: sizes.
        tokens: code at position - 1, or `arch.bos` at position 0.
        labels: class of each sequence, or `arch.no_class`.
        caches: one a block, filled for the places before `position`.
        position: place to predict.

    Returns:
        Logits over the K codes, and the caches with this place filled in.
    """
    return _Transformer(arch).apply({"params": params}, tokens, labels, caches, position, method="step")


def loss(
    key: Key[Array, ""],
    params: Params,
    arch: Architecture,
    codes: Int[Array, "b t"],
    labels: Int[Array, " b"],
    *,
    label_smoothing: float = 0.0,
    label_dropout: float = 0.0,
    train: bool = True,
) -> tuple[Float[Scalar, ""], dict[str, Float[Scalar, ""]]]:
    """Mean cross-entropy of a code given the codes before it.

    (1 - s) * -log p(c_i | c_<i) + s * mean over k of -log p(k | c_<i), averaged over all codes that are not PAD.

    Args:
        key: random key of dropout; unused when `train` is False.
        params: parameters.
        arch: sizes.
        codes: sequences in raster order.
        labels: class of each sequence, or `arch.no_class`.
        label_smoothing: s in [0, 1).
        label_dropout: probability that a label is replaced by `arch.no_class`, for classifier-free guidance.
        train: whether dropout, label dropout and label smoothing act.

    Returns:
        Loss in nats a code, and metrics `bits_per_code` (never smoothed) and `accuracy`.
    """
    if train:
        dropout_key, label_key = jax.random.split(key)
        dropped = jax.random.bernoulli(label_key, label_dropout, labels.shape)
        labels = jnp.where(dropped, arch.no_class, labels)
        predicted = _batch_logits(params, arch, codes, labels, dropout_key)
    else:
        label_smoothing = 0.0
        predicted = _batch_logits(params, arch, codes, labels)
    log_p = jax.nn.log_softmax(predicted)
    kept = codes < arch.num_codes
    targets = jnp.where(kept, codes, 0).astype(jnp.int32)
    total = jnp.maximum(kept.sum(), 1)

    def average(values: Float[Array, "b t"]) -> Float[Scalar, ""]:
        return jnp.where(kept, values, 0.0).sum() / total

    nats = average(-jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0])
    value = nats
    if label_smoothing > 0:
        value = (1 - label_smoothing) * nats + label_smoothing * average(-log_p.mean(axis=-1))
    accuracy = average((log_p.argmax(axis=-1) == targets).astype(log_p.dtype))
    return value, {"bits_per_code": nats / np.log(2), "accuracy": accuracy}


def log_probabilities(
    params: Params, arch: Architecture, codes: Int[Array, "b t"], labels: Int[Array, " b"]
) -> Float[Array, "b t"]:
    """log p(c_i | c_<i, label) of every code, in nats, without dropout; 0 at PAD.

    Args:
        params: parameters.
        arch: sizes.
        codes: sequences in raster order.
        labels: class of each sequence, or `arch.no_class`.

    Returns:
        One log-probability a code.
    """
    log_p = jax.nn.log_softmax(_batch_logits(params, arch, codes, labels))
    kept = codes < arch.num_codes
    targets = jnp.where(kept, codes, 0).astype(jnp.int32)
    return jnp.where(kept, jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0], 0.0)


def _check(arch: Architecture) -> None:
    for name in ("num_codes", "length", "embed_dim", "num_layers", "num_heads", "mlp_ratio"):
        if getattr(arch, name) < 1:
            raise ValueError(f"expected {name} >= 1, got {getattr(arch, name)}")
    if arch.num_classes < 0:
        raise ValueError(f"expected num_classes >= 0, got {arch.num_classes}; 0 is an unconditional prior")
    if arch.embed_dim % arch.num_heads:
        raise ValueError(
            f"expected num_heads that divides embed_dim, got {arch.num_heads} and {arch.embed_dim}; change one of them"
        )
    if not 0 <= arch.dropout < 1:
        raise ValueError(f"expected dropout in [0, 1), got {arch.dropout}")
    if arch.grid is not None and arch.grid[0] * arch.grid[1] != arch.length:
        raise ValueError(
            f"expected grid (h, w) with h * w = length = {arch.length}, got {arch.grid}; mend grid or length"
        )
