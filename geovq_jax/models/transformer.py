"""The network of the prior: a pre-norm causal transformer over codes, for whole sequences or one position at a time."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Architecture(NamedTuple):
    """Sizes of the prior.

    The vocabulary is the K codes followed by BOS = K. The head has one row per code and none for BOS, which is an input
    only and cannot be predicted or drawn. The label `num_classes` means "no class".

    Attributes:
        num_codes: K.
        length: t, the longest sequence, in codes.
        num_classes: 0 for an unconditional prior.
        embed_dim: width of the residual stream, a multiple of `num_heads`.
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
    def no_class(self) -> int:
        """Label of an unconditional sequence."""
        return self.num_classes


class Cache(NamedTuple):
    """Keys and values [b, h, t, c] of one block at positions already seen, contiguous per head as products need it."""

    keys: Array
    values: Array


def _attend(
    queries: Float[Array, "b h q c"],
    keys: Float[Array, "b h k c"],
    values: Float[Array, "b h k c"],
    visible: Bool[Array, "q k"],
    dropout: Callable[[Array], Array],
) -> Float[Array, "b h q c"]:
    """Masked softmax attention; scores and softmax in at least float32."""
    scores = jnp.einsum(
        "bhqc,bhkc->bhqk", queries, keys, preferred_element_type=jnp.promote_types(queries.dtype, jnp.float32)
    )
    scores = scores * queries.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bhkc->bhqc", dropout(weights).astype(values.dtype), values)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    arch: Architecture

    def setup(self) -> None:
        arch = self.arch
        dtype = jnp.bfloat16 if arch.bfloat16 else None
        normal = nn.initializers.normal(0.02)
        # The variances of the 2 L residual branches add up; scaled so that the sum does not grow with depth.
        residual = nn.initializers.normal(0.02 * (2 * arch.num_layers) ** -0.5)
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


class Transformer(nn.Module):
    """Logits over codes from tokens and labels; row i of the output predicts the code after token i."""

    arch: Architecture

    def setup(self) -> None:
        arch = self.arch
        normal = nn.initializers.normal(0.02)
        self.tokens = self.param("tokens", normal, (arch.num_codes + 1, arch.embed_dim))
        self.classes = self.param("classes", normal, (arch.num_classes + 1, arch.embed_dim))
        if arch.grid is None:
            self.places = self.param("positions", normal, (arch.length, arch.embed_dim))
        else:
            rows = self.param("rows", normal, (arch.grid[0], arch.embed_dim))
            columns = self.param("columns", normal, (arch.grid[1], arch.embed_dim))
            self.places = (rows[:, None] + columns[None]).reshape(arch.length, arch.embed_dim)
        self.blocks = [Block(arch, name=f"block_{i}") for i in range(arch.num_layers)]
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
        self, tokens: Int[Array, "b t"], labels: Int[Array, " b"], deterministic: bool
    ) -> Float[Array, "b t k"]:
        x = self.perturb("embedded", self._embed(tokens, labels, self.places[: tokens.shape[1]]))
        x = self.dropout(x, deterministic=deterministic)
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
