"""Shapes, the geometry of the grid, differentiability and the assembly of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.models import objective as objectives
from geovq_jax.models import vae
from geovq_jax.models.objective import Objective
from geovq_jax.models.vae import Architecture

encode = jax.jit(vae.encode, static_argnums=1)
decode = jax.jit(vae.decode, static_argnums=1)
decode_logits = jax.jit(vae.decode_logits, static_argnums=1)
loss_of = jax.jit(vae.loss, static_argnums=(2, 3))


def params_of(arch, seed=0):
    """Random parameters of the right shapes, drawn by numpy: quicker than compiling the initialisers."""
    generator = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: vae.init(key, arch), jax.random.key(0))

    def draw(leaf):
        fan_in = max(np.prod(leaf.shape[:-1]), 1)
        return jnp.asarray(generator.normal(size=leaf.shape) * np.sqrt(2 / fan_in), leaf.dtype)

    return jax.tree.map(draw, shapes)


TINY = Architecture(image_shape=(8, 8, 1), latent_dim=3, channels=(4, 6))


@pytest.mark.parametrize(
    ("arch", "latent"),
    [
        (Architecture(image_shape=(28, 28, 1), latent_dim=5, channels=(4, 6, 8)), (4, 4, 5)),
        (Architecture(image_shape=(32, 32, 3), latent_dim=5, channels=(4, 6, 8), norm="group"), (4, 4, 5)),
        (Architecture(image_shape=(8, 8, 1), latent_dim=2, channels=(4,), norm="layer"), (4, 4, 2)),
        (Architecture(image_shape=(9, 14, 2), latent_dim=2, channels=(4, 4), output="identity"), (3, 4, 2)),
        (Architecture(kind="vanilla", image_shape=(28, 28, 1), latent_dim=7, channels=(4, 6, 8)), (7,)),
    ],
)
def test_shapes(arch, latent):
    params = jax.eval_shape(lambda key: vae.init(key, arch), jax.random.key(0))
    image = jax.ShapeDtypeStruct(arch.image_shape, jnp.float32)
    posterior = jax.eval_shape(lambda p, x: vae.encode(p, arch, x), params, image)
    assert vae.latent_shape(arch) == latent
    assert posterior.mean.shape == posterior.log_variance.shape == latent
    assert jax.eval_shape(lambda p, z: vae.decode(p, arch, z), params, posterior.mean).shape == arch.image_shape


def test_default_sizes():
    params = jax.eval_shape(lambda key: vae.init(key, Architecture()), jax.random.key(0))
    # 4x4 kernels 1-64-128-256 and back, heads 256 -> 2*16 and 16 -> 256, and a bias each.
    kernels = 16 * (64 + 64 * 128 + 128 * 256) * 2 + 256 * 32 + 16 * 256
    biases = (64 + 128 + 256 + 32) + (256 + 128 + 64 + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == kernels + biases


def test_initial_logits_are_of_order_one():
    arch = Architecture(image_shape=(16, 16, 1), latent_dim=8, channels=(16, 16))
    params = jax.jit(vae.init, static_argnums=1)(jax.random.key(0), arch)
    z = jax.random.normal(jax.random.key(1), vae.latent_shape(arch))
    logits = np.asarray(decode_logits(params, arch, z))[4:-4, 4:-4]
    assert 0.2 < logits.std() < 2.0
    biases = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "bias" in str(path[-1])]
    assert all(not leaf.any() for leaf in biases)


@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_the_output_map_is_applied_once(output):
    arch = TINY._replace(output=output)
    params = params_of(arch)
    z = jax.random.normal(jax.random.key(1), vae.latent_shape(arch))
    logits = np.asarray(decode_logits(params, arch, z))
    expected = 1.0 / (1.0 + np.exp(-logits)) if output == "sigmoid" else logits
    np.testing.assert_allclose(decode(params, arch, z), expected, rtol=1e-5)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_shift_by_one_cell_is_a_shift_by_one_stride(norm):
    """Where the borders are far, decoding a shifted grid shifts the image by 2^layers pixels, and likewise encoding."""
    arch = Architecture(image_shape=(28, 28, 1), latent_dim=2, channels=(3, 4), norm=norm)
    params = params_of(arch)
    z = jnp.zeros((7, 7, 2)).at[2, 2].set(jnp.array([1.0, -2.0]))
    rest = decode_logits(params, arch, jnp.zeros((7, 7, 2)))
    one = decode_logits(params, arch, z) - rest
    other = decode_logits(params, arch, jnp.roll(z, (1, 2), (0, 1))) - rest
    np.testing.assert_allclose(other, jnp.roll(one, (4, 8), (0, 1)), atol=1e-5)
    assert float(jnp.abs(one).max()) > 0.01
    rows = np.flatnonzero(np.abs(np.asarray(one)).max(axis=(1, 2)) > 1e-6)
    assert rows.mean() == 4 * 2 + 1.5  # centred on the pixels of its cell


def test_the_crop_is_centred():
    arch = Architecture(image_shape=(6, 6, 1), latent_dim=2, channels=(3, 4))
    params = params_of(arch)
    larger = arch._replace(image_shape=(8, 8, 1))
    z = jax.random.normal(jax.random.key(1), (2, 2, 2))
    whole = decode(params, larger, z)
    np.testing.assert_array_equal(decode(params, arch, z), whole[1:7, 1:7])
    image = jax.random.uniform(jax.random.key(2), (6, 6, 1))
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(encode(params, arch, image).mean, encode(params, larger, padded).mean)


@pytest.mark.parametrize("arch", [TINY, TINY._replace(kind="vanilla", norm="group")])
def test_forward_and_reverse_derivatives_of_the_decoder_agree_with_differences(arch):
    with jax.enable_x64(True):
        params = params_of(arch)
        shape = vae.latent_shape(arch)
        z, v = jax.random.normal(jax.random.key(1), (2, *shape))
        decode = jax.jit(lambda z: vae.decode(params, arch, z))
        forward = jax.jvp(decode, (z,), (v,))[1]
        step = 1e-5
        np.testing.assert_allclose(forward, (decode(z + step * v) - decode(z - step * v)) / (2 * step), atol=1e-8)
        x, pull = jax.vjp(decode, z)
        w = jax.random.normal(jax.random.key(2), x.shape)
        np.testing.assert_allclose(jnp.vdot(forward, w), jnp.vdot(v, pull(w)[0]), rtol=1e-9)


def test_linearisations_of_many_latents():
    params = params_of(TINY)
    zs, vs = jax.random.normal(jax.random.key(1), (2, 5, *vae.latent_shape(TINY)))

    def push(z, v):
        return jax.linearize(lambda z: vae.decode(params, TINY, z), z)[1](v)

    batched = jax.jit(jax.vmap(push))(zs, vs)
    single = jax.jvp(lambda z: vae.decode(params, TINY, z), (zs[3],), (vs[3],))[1]
    np.testing.assert_allclose(batched[3], single, atol=1e-6)


@pytest.mark.parametrize("arch", [TINY, TINY._replace(kind="vanilla")])
def test_an_encoder_without_variances_keeps_the_means(arch):
    params, image = params_of(arch), jnp.asarray(np.random.default_rng(3).uniform(size=arch.image_shape))
    whole, found = (vae.encode(p, arch, image) for p in (params, vae.drop_variances(params, arch)))
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)
    assert np.isneginf(found.log_variance).all()
    assert found.log_variance.shape == whole.log_variance.shape


def test_posterior_draws_have_its_moments():
    posterior = vae.Posterior(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.25, 4.0])))
    draws = jax.vmap(lambda key: vae.sample_posterior(key, posterior))(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(draws.mean(axis=0), [1.0, -2.0], atol=0.05)
    np.testing.assert_allclose(draws.var(axis=0), [0.25, 4.0], rtol=0.05)


@pytest.mark.parametrize("loss", ["bernoulli", "mse"])
def test_loss_is_its_parts(loss):
    """With almost no posterior variance, the loss is that of the mean's reconstruction plus the KL by hand."""
    params = params_of(TINY)
    head = params["encoder"]["head"]
    head["bias"] = head["bias"].at[3:].set(-40.0)
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    value, metrics = loss_of(jax.random.key(2), params, TINY, Objective(loss=loss, beta=0.5), images, 0)
    reconstruction, kl, psnr = 0.0, 0.0, 0.0
    for image in images:
        posterior = encode(params, TINY, image)
        pixels = np.asarray(decode(params, TINY, posterior.mean), np.float64)
        target = np.asarray(image, np.float64)
        entropy = -(target * np.log(pixels) + (1 - target) * np.log1p(-pixels))
        reconstruction += (entropy if loss == "bernoulli" else (pixels - target) ** 2).sum() / 4
        mean, log_variance = (np.asarray(part, np.float64) for part in posterior)
        kl += 0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1).sum() / 4
        psnr += -10 * np.log10(((pixels - target) ** 2).mean()) / 4
    np.testing.assert_allclose(value, reconstruction + 0.5 * kl, rtol=1e-5)
    np.testing.assert_allclose(
        [metrics[n] for n in ("reconstruction", "kl", "psnr")], [reconstruction, kl, psnr], rtol=1e-4
    )


def test_annealing_reads_the_step():
    params, images = params_of(TINY), jnp.full((2, 8, 8, 1), 0.3)
    objective = Objective(beta=2.0, anneal_steps=10)
    losses = [loss_of(jax.random.key(1), params, TINY, objective, images, step) for step in (0, 5)]
    kl = losses[0][1]["kl"]
    np.testing.assert_allclose(losses[1][0] - losses[0][0], 2.0 * 0.5 * kl, rtol=1e-3)
    final = loss_of(jax.random.key(1), params, TINY, objectives.without_annealing(objective), images, 0)[0]
    np.testing.assert_allclose(final - losses[0][0], 2.0 * kl, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "grid"}, "expected kind to be one of vanilla, spatial, got 'grid'"),
        ({"norm": "batch"}, "expected norm to be one of none, group, layer, got 'batch'"),
        ({"output": "tanh"}, "expected output to be one of sigmoid, identity, got 'tanh'"),
        ({"channels": ()}, r"expected positive channels and latent_dim, got \(\) and 3"),
    ],
)
def test_impossible_architectures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        vae.init(jax.random.key(0), TINY._replace(**change))
