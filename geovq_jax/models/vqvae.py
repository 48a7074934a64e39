"""Joint VQ-VAE with the encoder and decoder of the VAE: a codebook learnt by moving averages, or finite scalars."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from geovq_jax.models import objective as objectives
from geovq_jax.models import quantizers, vae
from geovq_jax.models.objective import Objective
from geovq_jax.models.quantizers import Codebook
from geovq_jax.models.vae import Architecture


class Quantizer(NamedTuple):
    """Settings of the quantizer; hashable.

    Attributes:
        method: "ema" (codebook of moving averages) or "fsq" (finite scalar quantization).
        num_codes: K; for "fsq" the product of the levels.
        decay: of the moving averages.
        commitment: weight of |z - sg(q)|^2.
        gradient: gradient estimator of the quantizer, "straight_through" or "rotation".
        reseed: a code whose average count falls below this part of an even share moves to a latent of the batch.
        levels: for "fsq", the number of values of each latent dimension.
    """

    method: str = "ema"
    num_codes: int = 512
    decay: float = 0.99
    commitment: float = 0.25
    gradient: str = "straight_through"
    reseed: float = 0.1
    levels: tuple[int, ...] = ()


def check(arch: Architecture, quantizer: Quantizer) -> None:
    """ValueError for invalid settings, naming the field and its choices."""
    objectives.check_choices(quantizer, {"method": ("ema", "fsq"), "gradient": quantizers.GRADIENTS})
    if quantizer.method == "fsq":
        size = quantizers.fsq_size(quantizer.levels)
        if len(quantizer.levels) != arch.latent_dim or size != quantizer.num_codes:
            raise ValueError(
                f"expected latent_dim {len(quantizer.levels)} and num_codes {size} for levels {quantizer.levels}, "
                f"got {arch.latent_dim} and {quantizer.num_codes}"
            )


def init(
    key: Key[Array, ""], arch: Architecture, quantizer: Quantizer, images: Float[Array, "b H W C"]
) -> PyTree[Float[Array, "..."]]:
    """Random parameters of the VAE's networks, without log variances, and for "ema" a codebook fitted by k-means.

    `images` in [0, 1] seed the codebook with at least num_codes latent vectors. ValueError for invalid settings or too
    few images.
    """
    check(arch, quantizer)
    model_key, codebook_key = jax.random.split(key)
    params = vae.drop_variances(vae.init(model_key, arch), arch)
    if quantizer.method == "fsq":
        return params
    latents = jax.vmap(lambda image: encode(params, arch, image))(images).reshape(-1, arch.latent_dim)
    return {**params, "codebook": quantizers.kmeans_codebook(codebook_key, latents, quantizer.num_codes)}


def from_vae(
    params: PyTree, vectors: Float[Array, "K d"], metric: Float[Array, "d d"], *, floor: float = 1e-3
) -> PyTree[Float[Array, "..."]]:
    """Parameters for an "ema" quantizer that start from a trained VAE and vectors c among its latents.

    Latents are transformed to S z with S the square root of the metric, so that Euclidean distances equal those of the
    metric: the encoder's last map is multiplied by S, the decoder's first map by its inverse, and the codebook holds S
    c. The metric, such as the mean pull-back metric, has its eigenvalues raised to `floor` times the largest.
    """
    eigenvalues, axes = jnp.linalg.eigh(metric)
    roots = jnp.sqrt(jnp.maximum(eigenvalues, floor * eigenvalues[-1]))
    root, inverse = ((axes * scale[None, :]) @ axes.T for scale in (roots, 1.0 / roots))
    size = vectors.shape[1]
    head, first = params["encoder"]["head"], params["decoder"]["head"]
    moved = vectors @ root
    return {
        "encoder": params["encoder"] | {"head": {name: leaf[..., :size] @ root for name, leaf in head.items()}},
        "decoder": params["decoder"] | {"head": first | {"kernel": inverse @ first["kernel"]}},
        "codebook": Codebook(moved, jnp.ones(len(vectors), moved.dtype), moved),
    }


def encode(params: PyTree, arch: Architecture, image: Float[Array, "H W C"]) -> Float[Array, "*latent"]:
    """Latent of one image before quantization."""
    return vae.encode(params, arch, image).mean


def codebook_vectors(params: PyTree, quantizer: Quantizer) -> Float[Array, "K d"]:
    """The code vectors, in the space of the decoder's input."""
    return quantizers.fsq_vectors(quantizer.levels) if quantizer.method == "fsq" else params["codebook"].vectors


def quantize(
    params: PyTree, quantizer: Quantizer, z: Float[Array, "*grid d"]
) -> tuple[Float[Array, "*grid d"], Int[Array, "*grid"]]:
    """Quantized latents, with the gradient of the quantizer's settings, and their codes in [0, K)."""
    if quantizer.method == "fsq":
        return quantizers.fsq(z, quantizer.levels)
    vectors = params["codebook"].vectors
    codes = quantizers.nearest(z.reshape(-1, z.shape[-1]), vectors).reshape(z.shape[:-1])
    return quantizers.pass_gradient(z, vectors[codes], quantizer.gradient), codes


def loss(
    key: Key[Array, ""],
    params: PyTree,
    arch: Architecture,
    quantizer: Quantizer,
    objective: Objective,
    images: Float[Array, "b H W C"],
) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], Codebook | None]]:
    """Training loss of a batch and the codebook that follows it.

    reconstruction + commitment sum |z - sg(q)|^2, means over the batch (van den Oord et al. 2017, equation 3); the
    codebook receives no gradient. The key is for the re-seeding of codes; `objective.loss` names the reconstruction.

    Returns:
        Loss, and (metrics, codebook): loss, reconstruction, commitment, psnr (dB), used (share of the codes that occur
        in the batch), perplexity (of the batch); the codebook for `replace_codebook`, None for "fsq".
    """
    params = {**params, "codebook": jax.lax.stop_gradient(params.get("codebook"))}
    z = jax.vmap(lambda image: encode(params, arch, image))(images)
    quantized, codes = quantize(params, quantizer, z)
    logits = jax.vmap(lambda one: vae.decode_logits(params, arch, one))(quantized)
    pixels = vae.output_map(arch, logits)
    reconstruction = objectives.reconstruction(objective, logits, pixels, images)
    commitment, codebook = jnp.zeros_like(reconstruction), None
    if quantizer.method == "ema":
        gap = jnp.sum(jnp.square(z - params["codebook"].vectors[codes])) / images.shape[0]
        commitment = quantizer.commitment * gap
        flat = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
        codebook = quantizers.moved_codebook(
            key, params["codebook"], flat, codes.reshape(-1), decay=quantizer.decay, reseed=quantizer.reseed
        )
    counts = jnp.bincount(codes.reshape(-1), length=quantizer.num_codes).astype(z.dtype)
    metrics = {
        "loss": reconstruction + commitment,
        "reconstruction": reconstruction,
        "commitment": commitment,
        "psnr": objectives.mean_psnr(pixels, images),
        "used": jnp.mean(counts > 0),
        "perplexity": quantizers.perplexity(counts),
    }
    return reconstruction + commitment, (metrics, codebook)


def replace_codebook(params: PyTree, codebook: Codebook | None) -> PyTree:
    """Parameters with the codebook that followed a batch: the `update_fn` of training."""
    return params if codebook is None else {**params, "codebook": codebook}
