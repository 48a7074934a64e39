"""Loss by hand, where gradients flow, and use of the codebook after a short training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from geovq_jax.models import vae, vqvae
from geovq_jax.models.objective import Objective
from geovq_jax.models.quantizers import Codebook
from geovq_jax.models.vae import Architecture
from geovq_jax.models.vqvae import Quantizer
from geovq_jax.training import loop
from geovq_jax.training.optimizer import make_optimizer

ARCH = Architecture(image_shape=(8, 8, 1), latent_dim=2, channels=(4,))
EMA = Quantizer(num_codes=6)
FSQ = Quantizer(method="fsq", num_codes=12, levels=(3, 4))
IMAGES = jnp.asarray(np.random.default_rng(0).random((4, 8, 8, 1), np.float32))

loss = jax.jit(vqvae.loss, static_argnums=(2, 3, 4))


def params_of(arch, quantizer, images):
    """Random parameters of the right shapes, drawn by numpy: quicker than compiling the initialisers."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: vqvae.init(key, arch, quantizer, images), jax.random.key(0))

    def draw(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return jnp.asarray(scale * generator.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def params():
    return jax.jit(vqvae.init, static_argnums=(1, 2))(jax.random.key(0), ARCH, EMA, IMAGES)


def test_same_networks_as_the_vae(params):
    of_vae = jax.eval_shape(lambda key: vae.init(key, ARCH), jax.random.key(0))
    assert jax.tree.map(jnp.shape, params["decoder"]) == jax.tree.map(jnp.shape, of_vae["decoder"])
    encoder, of_vae_encoder = dict(params["encoder"]), dict(of_vae["encoder"])
    assert encoder.pop("head")["kernel"].shape == (4, 2)
    assert of_vae_encoder.pop("head")["kernel"].shape == (4, 4)
    assert jax.tree.map(jnp.shape, encoder) == jax.tree.map(jnp.shape, of_vae_encoder)


def test_loss_by_hand(params):
    value, (metrics, _) = loss(jax.random.key(1), params, ARCH, EMA, Objective(loss="mse"), IMAGES)
    vectors = np.asarray(params["codebook"].vectors)
    reconstruction, gap, used = 0.0, 0.0, set()
    for image in IMAGES:
        z = np.asarray(vqvae.encode(params, ARCH, image))
        codes = np.square(z[..., None, :] - vectors).sum(axis=-1).argmin(axis=-1)
        pixels = np.asarray(vae.decode(params, ARCH, jnp.asarray(vectors[codes])))
        reconstruction += np.square(pixels - np.asarray(image)).sum() / 4
        gap += np.square(z - vectors[codes]).sum() / 4
        used |= set(codes.ravel())
    np.testing.assert_allclose(metrics["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(metrics["commitment"], 0.25 * gap, rtol=1e-4)
    np.testing.assert_allclose(value, reconstruction + 0.25 * gap, rtol=1e-4)
    np.testing.assert_allclose(metrics["used"], len(used) / 6)


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_gradients_reach_encoder_and_decoder_but_not_the_codebook(params, gradient):
    quantizer = EMA._replace(gradient=gradient, commitment=0.0)
    objective = Objective(loss="mse")
    slopes = jax.jit(jax.grad(lambda p: vqvae.loss(jax.random.key(1), p, ARCH, quantizer, objective, IMAGES)[0]))(
        params
    )
    assert all(
        float(jnp.abs(leaf).max()) > 0 for name in ("encoder", "decoder") for leaf in jax.tree.leaves(slopes[name])
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes["codebook"]))


def test_fsq_codes_and_vectors_agree():
    params = params_of(ARCH, FSQ, IMAGES)
    assert "codebook" not in params
    z = 2.0 * jax.random.normal(jax.random.key(1), (5, 3, 2))
    quantized, codes = vqvae.quantize(params, FSQ, z)
    np.testing.assert_allclose(vqvae.codebook_vectors(params, FSQ)[codes], quantized, atol=1e-6)
    _, (metrics, codebook) = loss(jax.random.key(1), params, ARCH, FSQ, Objective(), IMAGES)
    assert codebook is None
    assert float(metrics["commitment"]) == 0.0


def coloured_images(number):
    """Smooth random colours of CIFAR-10's shape."""
    noise = np.random.default_rng(0).normal(size=(number, 32, 32, 3))
    smooth = gaussian_filter(noise, (0, 4, 4, 0))
    return (0.5 + smooth / (4 * smooth.std())).clip(0, 1).astype(np.float32)


@pytest.mark.slow
def test_almost_all_of_512_codes_are_used():
    """After a short training from a codebook with one live code, which only re-seeding can spread."""
    arch = Architecture(image_shape=(32, 32, 3), latent_dim=4, channels=(8, 8, 16))
    quantizer, objective = Quantizer(gradient="rotation", decay=0.9), Objective(loss="mse")
    images = coloured_images(192)
    params = params_of(arch, quantizer, jnp.asarray(images[:64]))
    far = jnp.full((512, 4), 1e3).at[0].set(0.0)
    params |= {"codebook": Codebook(far, jnp.ones(512), far)}

    def loss_fn(params, key, step, batch):
        return vqvae.loss(key, params, arch, quantizer, objective, batch)

    @jax.jit
    def unused(params):
        z = jax.vmap(partial(vqvae.encode, params, arch))(images)
        counts = jnp.bincount(vqvae.quantize(params, quantizer, z)[1].reshape(-1), length=512)
        return {"objective": jnp.mean(counts == 0)}

    fit = loop.fit(
        loss_fn,
        params,
        images,
        key=jax.random.key(1),
        optimizer=make_optimizer(learning_rate=2e-3, num_steps=100),
        num_steps=100,
        indices_fn=lambda step: np.random.default_rng(step).choice(192, 64, replace=False).astype(np.int32),
        evaluate_fn=unused,
        evaluate_every=50,
        update_fn=vqvae.replace_codebook,
    )
    assert fit.best_step == 100
    assert fit.best_value <= 0.1
    assert fit.history[1]["train/reconstruction"] < 0.9 * fit.history[0]["train/reconstruction"]


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (Quantizer(method="lfq"), "expected method to be one of ema, fsq, got 'lfq'"),
        (Quantizer(gradient="noise"), "expected gradient to be one of straight_through, rotation, got 'noise'"),
        (FSQ._replace(num_codes=16), r"expected latent_dim 2 and num_codes 12 for levels \(3, 4\), got 2 and 16"),
    ],
)
def test_impossible_quantizers_are_refused(quantizer, message):
    with pytest.raises(ValueError, match=message):
        vqvae.init(jax.random.key(0), ARCH, quantizer, IMAGES)


def test_a_start_from_a_vae_encodes_and_decodes_as_it_does():
    of_vae = jax.jit(vae.init, static_argnums=1)(jax.random.key(3), ARCH)
    generator = np.random.default_rng(1)
    vectors, factor = generator.normal(size=(6, 2)).astype(np.float32), generator.normal(size=(2, 2))
    metric = (factor @ factor.T).astype(np.float32)
    started = vqvae.from_vae(of_vae, jnp.asarray(vectors), jnp.asarray(metric))
    z = np.asarray(vqvae.encode(started, ARCH, IMAGES[0]))
    mean = np.asarray(vae.encode(of_vae, ARCH, IMAGES[0]).mean)
    np.testing.assert_allclose(np.sum(z**2, axis=-1), np.einsum("hwi,ij,hwj->hw", mean, metric, mean), rtol=1e-4)
    codes = generator.integers(0, 6, z.shape[:-1])
    np.testing.assert_allclose(
        vae.decode(started, ARCH, started["codebook"].vectors[codes]),
        vae.decode(of_vae, ARCH, jnp.asarray(vectors[codes])),
        rtol=1e-4,
    )
