"""Variational autoencoder, vanilla (one vector per image) or spatial (a grid of vectors): functions of one example."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from geovq_jax.models import objective as objectives
from geovq_jax.models.convolution import downsample, upsample
from geovq_jax.models.objective import Objective


class Architecture(NamedTuple):
    """Sizes of encoder and decoder; hashable, so it can be a static argument.

    Attributes:
        kind: "vanilla" (latent [d]) or "spatial" (latent [h, w, d]).
        image_shape: (height, width, channels).
        latent_dim: d, the length of one latent vector.
        channels: one stride-2 convolution each; the grid is ceil(height / 2^len) x ceil(width / 2^len).
        norm: "none", "group" or "layer", after each hidden layer.
        output: map from the decoder's logits to pixels, "sigmoid" or "identity".
    """

    kind: str = "spatial"
    image_shape: tuple[int, int, int] = (28, 28, 1)
    latent_dim: int = 16
    channels: tuple[int, ...] = (64, 128, 256)
    norm: str = "none"
    output: str = "sigmoid"


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x)."""

    mean: Float[Array, "*latent"]
    log_variance: Float[Array, "*latent"]


def grid_shape(arch: Architecture) -> tuple[int, int]:
    """Height and width of the innermost feature grid: image sides over 2^len(channels), rounded up."""
    stride = 2 ** len(arch.channels)
    return -(-arch.image_shape[0] // stride), -(-arch.image_shape[1] // stride)


def latent_shape(arch: Architecture) -> tuple[int, ...]:
    """Shape of one image's latent: (d,) or (h, w, d)."""
    return (arch.latent_dim,) if arch.kind == "vanilla" else (*grid_shape(arch), arch.latent_dim)


def _margins(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """Padding (before, after) of each image axis that makes the sides multiples of the total stride."""
    stride = 2 ** len(arch.channels)
    extra = [grid * stride - side for grid, side in zip(grid_shape(arch), arch.image_shape[:2], strict=True)]
    return (*((e // 2, e - e // 2) for e in extra), (0, 0))


class _Resample(nn.Module):
    """A stride-2 convolution, down or up, with its parameters."""

    features: int
    up: bool

    @nn.compact
    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 o"]:
        # Each output of the transposed convolution depends on 2 x 2 of the 4 x 4 taps.
        variance = nn.initializers.variance_scaling(4.0 * 2.0 if self.up else 2.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", variance, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = upsample(x, kernel) if self.up else downsample(x, kernel)
        return y + bias[None, None]


class _Norm(nn.Module):
    """Normalisation of one example's feature grid, named by `kind`."""

    kind: str

    @nn.compact
    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        if self.kind == "group":
            groups = max(g for g in range(1, 9) if x.shape[-1] % g == 0)
            return nn.GroupNorm(num_groups=groups, param_dtype=float)(x[None])[0]
        if self.kind == "layer":
            return nn.LayerNorm(param_dtype=float)(x)
        return x


class Encoder(nn.Module):
    """Stride-2 convolutions, then a dense (vanilla) or 1x1 (spatial) head of `outputs` channels."""

    arch: Architecture
    outputs: int

    @nn.compact
    def __call__(self, image: Float[Array, "H W C"]) -> Float[Array, "*head"]:
        x = jnp.pad(image, _margins(self.arch))
        for features in self.arch.channels:
            x = nn.silu(_Norm(self.arch.norm)(_Resample(features, up=False)(x)))
        if self.arch.kind == "vanilla":
            x = x.reshape(-1)
        return nn.Dense(self.outputs, param_dtype=float, name="head")(x)


class Decoder(nn.Module):
    """The encoder's mirror: dense (vanilla) or 1x1 (spatial), then stride-2 transposed convolutions to logits."""

    arch: Architecture

    @nn.compact
    def __call__(self, z: Float[Array, "*latent"]) -> Float[Array, "H W C"]:
        arch = self.arch
        height, width, image_channels = arch.image_shape
        grid, deepest = grid_shape(arch), arch.channels[-1]
        if arch.kind == "vanilla":
            x = nn.Dense(grid[0] * grid[1] * deepest, param_dtype=float, name="head")(z).reshape(*grid, deepest)
        else:
            x = nn.Dense(deepest, param_dtype=float, name="head")(z)
        for features in (*reversed(arch.channels[:-1]), image_channels):
            x = _Resample(features, up=True)(nn.silu(_Norm(arch.norm)(x)))
        (top, _), (left, _), _ = _margins(arch)
        return x[top : top + height, left : left + width]


def check(arch: Architecture) -> None:
    """ValueError for an architecture that cannot be built, naming the field and its choices."""
    choices = {"kind": ("vanilla", "spatial"), "norm": ("none", "group", "layer"), "output": ("sigmoid", "identity")}
    objectives.check_choices(arch, choices)
    if not arch.channels or min(arch.channels) < 1 or arch.latent_dim < 1:
        raise ValueError(
            f"expected positive channels and latent_dim, got {arch.channels} and {arch.latent_dim}; raise them"
        )


def init(key: Key[Array, ""], arch: Architecture) -> PyTree[Float[Array, "..."]]:
    """Random parameters {"encoder": ..., "decoder": ...}; ValueError for an architecture that cannot be built."""
    check(arch)
    encoder_key, decoder_key = jax.random.split(key)
    image, z = (jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype) for shape in (arch.image_shape, latent_shape(arch)))
    encoder = Encoder(arch, 2 * arch.latent_dim).lazy_init(encoder_key, image)
    decoder = Decoder(arch).lazy_init(decoder_key, z)
    return {"encoder": encoder["params"], "decoder": decoder["params"]}


def drop_variances(params: PyTree, arch: Architecture) -> PyTree[Float[Array, "..."]]:
    """Parameters of a deterministic encoder: those of a VAE without the log variances."""
    encoder = params["encoder"]
    head = {name: leaf[..., : arch.latent_dim] for name, leaf in encoder["head"].items()}
    return {**params, "encoder": {**encoder, "head": head}}


def encode(params: PyTree, arch: Architecture, image: Float[Array, "H W C"]) -> Posterior:
    """Posterior q(z|x) of one image in [0, 1]; the log variance of a deterministic encoder is minus infinity."""
    outputs = params["encoder"]["head"]["bias"].shape[-1]
    head = jnp.asarray(Encoder(arch, outputs).apply({"params": params["encoder"]}, image))
    mean, log_variance = head[..., : arch.latent_dim], head[..., arch.latent_dim :]
    return Posterior(mean, log_variance if log_variance.size else jnp.full_like(mean, -jnp.inf))


def decode_logits(params: PyTree, arch: Architecture, z: Float[Array, "*latent"]) -> Float[Array, "H W C"]:
    """Decoder before its output map: logits for "sigmoid", pixels for "identity"."""
    return jnp.asarray(Decoder(arch).apply({"params": params["decoder"]}, z))


def output_map(arch: Architecture, logits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Pixels from the decoder's logits."""
    return nn.sigmoid(logits) if arch.output == "sigmoid" else logits


def decode(params: PyTree, arch: Architecture, z: Float[Array, "*latent"]) -> Float[Array, "H W C"]:
    """One image from one latent, output map applied: f(z); pixels in [0, 1] for "sigmoid"."""
    return output_map(arch, decode_logits(params, arch, z))


def sample_posterior(key: Key[Array, ""], posterior: Posterior) -> Float[Array, "*latent"]:
    """One draw z = mean + exp(log_variance / 2) eps (Kingma & Welling 2014, section 2.4)."""
    noise = jax.random.normal(key, posterior.mean.shape, posterior.mean.dtype)
    return posterior.mean + jnp.exp(0.5 * posterior.log_variance) * noise


def loss(
    key: Key[Array, ""],
    params: PyTree,
    arch: Architecture,
    objective: Objective,
    images: Float[Array, "b H W C"],
    step: Int[Array, ""] | int,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Training loss of a batch: reconstruction + weighted rate, means over the batch of sums over pixels and latents.

    The key is for the posterior draws, `step` for the annealed terms. Metrics: loss, reconstruction, kl (nats per
    image), psnr (dB, of the sampled reconstruction). ValueError for an invalid objective.
    """
    objectives.check(objective)
    posterior = jax.vmap(lambda image: encode(params, arch, image))(images)
    z = jax.vmap(sample_posterior)(jax.random.split(key, images.shape[0]), posterior)
    logits = jax.vmap(lambda one: decode_logits(params, arch, one))(z)
    kl = objectives.gaussian_kl(posterior.mean, posterior.log_variance)
    pixels = output_map(arch, logits)
    reconstruction = objectives.reconstruction(objective, logits, pixels, images)
    total = reconstruction + objectives.rate(objective, kl, step)
    metrics = {
        "loss": total,
        "reconstruction": reconstruction,
        "kl": jnp.sum(kl) / images.shape[0],
        "psnr": objectives.mean_psnr(pixels, images),
    }
    return total, metrics
