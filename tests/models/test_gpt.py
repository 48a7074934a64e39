"""The prior against a plain numpy transformer, closed forms and a source of known entropy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

from geovq_jax.models import gpt

logits = jax.jit(gpt.logits, static_argnums=1)
log_probabilities = jax.jit(gpt.log_probabilities, static_argnums=1)
loss = jax.jit(gpt.loss, static_argnums=2, static_argnames=("label_smoothing", "label_dropout", "train"))

ARCH = gpt.Architecture(7, 6, 3, embed_dim=12, num_layers=2, num_heads=3, dropout=0.0)
GRID = ARCH._replace(grid=(2, 3), tied=False)
SHALLOW = ARCH._replace(num_layers=1)


def random_params(arch, seed=0, scale=0.3):
    """Parameters far from the small initial ones, biases and scales included."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(gpt.init, arch=arch), jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape), jnp.float32), shapes)


def random_batch(arch, batch_size, seed=0):
    rng = np.random.default_rng(seed)
    codes = jnp.asarray(rng.integers(0, arch.num_codes, (batch_size, arch.length)), jnp.int32)
    return codes, jnp.asarray(rng.integers(0, arch.num_classes + 1, batch_size), jnp.int32)


def numpy_logits(params, arch, codes, label):
    """One sequence through the network, place by place, head by head, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, layer):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * layer["scale"] + layer["bias"]

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    stream = []
    for place, token in enumerate([arch.num_codes, *np.asarray(codes)[:-1]]):
        if arch.grid is None:
            position = p["positions"][place]
        else:
            position = p["rows"][place // arch.grid[1]] + p["columns"][place % arch.grid[1]]
        stream.append(p["tokens"][token] + p["classes"][label] + position)
    channels = arch.embed_dim // arch.num_heads
    for layer in range(arch.num_layers):
        block = p[f"block_{layer}"]
        triples = [np.split(dense(norm(x, block["norm_attention"]), block["query_key_value"]), 3) for x in stream]
        for place in range(len(stream)):
            heads = []
            for head in range(arch.num_heads):
                part = slice(head * channels, (head + 1) * channels)
                query = triples[place][0][part]
                scores = [query @ triples[j][1][part] / math.sqrt(channels) for j in range(place + 1)]
                heads.append(sum(w * triples[j][2][part] for j, w in enumerate(softmax(scores))))
            stream[place] = stream[place] + dense(np.concatenate(heads), block["attention_out"])
        for place, x in enumerate(stream):
            hidden = dense(norm(x, block["norm_mlp"]), block["mlp_in"])
            hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
            stream[place] = x + dense(hidden, block["mlp_out"])
    head = p["tokens"][: arch.num_codes] if arch.tied else p["head"]
    return np.stack([norm(x, p["norm"]) @ head.T for x in stream])


def numpy_log_probabilities(params, arch, codes, labels):
    rows = [log_softmax(numpy_logits(params, arch, c, int(y)), axis=-1) for c, y in zip(codes, labels, strict=True)]
    return np.take_along_axis(np.stack(rows), np.asarray(codes)[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("arch", [ARCH, GRID, SHALLOW._replace(length=1, num_classes=0)])
def test_logits_equal_a_plain_numpy_transformer(arch):
    params = random_params(arch)
    codes, labels = random_batch(arch, 1)
    expected = numpy_logits(params, arch, codes[0], int(labels[0]))
    np.testing.assert_allclose(logits(params, arch, codes[0], labels[0]), expected, atol=2e-5)


def test_logits_in_double_precision():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_params(GRID))
        codes, labels = random_batch(GRID, 1)
        found = logits(params, GRID, codes[0], labels[0])
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, numpy_logits(params, GRID, codes[0], int(labels[0])), atol=1e-12)
        value, _ = loss(jax.random.key(0), jax.tree.map(jnp.float32, params), GRID, codes, labels)
        assert value.dtype == jnp.float32


def test_prefix_has_the_logits_of_the_whole():
    params = random_params(GRID)
    codes, _ = random_batch(GRID, 1)
    whole = logits(params, GRID, codes[0], 1)
    np.testing.assert_allclose(logits(params, GRID, codes[0, :4], 1), whole[:4], atol=1e-6)


def test_causality_by_gradient():
    arch = GRID
    # All codes differ and the head is separate, so that a row of the token embedding is the input of one place alone.
    params = random_params(arch)
    codes = jnp.asarray([3, 0, 6, 2, 5, 1], jnp.int32)

    def of_tokens(tokens):
        return logits({**params, "tokens": tokens}, arch, codes, 1)

    jacobian = jax.jit(jax.jacrev(of_tokens))(params["tokens"])
    size = np.linalg.norm(np.asarray(jacobian), axis=(1, 3))
    influence = size[:, np.asarray(codes)]
    earlier = np.tril(np.ones((6, 6), bool), k=-1)
    assert np.all(influence[~earlier] == 0)
    assert np.all(influence[earlier] > 1e-4)
    assert np.all(size[:, arch.bos] > 1e-4)


def test_initial_scales():
    arch = gpt.Architecture(125, 64, 10, embed_dim=64, num_layers=3, num_heads=4, tied=False)
    params = jax.jit(gpt.init, static_argnums=1)(jax.random.key(0), arch)
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "bias" in name:
            assert not leaf.any()
        elif "scale" in name:
            assert jnp.all(leaf == 1)
        else:
            expected = 0.02 / math.sqrt(6) if "attention_out" in name or "mlp_out" in name else 0.02
            # Standard error of a standard deviation from m draws: 1 / sqrt(2 m).
            assert abs(leaf.std() / expected - 1) < 5 / math.sqrt(2 * leaf.size), name
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    width = 64
    block = 12 * width**2 + 13 * width
    assert count == 3 * block + 2 * width + (126 + 11 + 64 + 125) * width


def test_loss_is_the_smoothed_cross_entropy():
    params = random_params(SHALLOW)
    codes, labels = random_batch(SHALLOW, 4)
    log_p = np.stack(
        [log_softmax(numpy_logits(params, SHALLOW, c, int(y)), axis=-1) for c, y in zip(codes, labels, strict=True)]
    )
    target = 0.9 * np.eye(7)[np.asarray(codes)] + 0.1 / 7
    value, metrics = loss(jax.random.key(0), params, SHALLOW, codes.astype(jnp.uint16), labels, label_smoothing=0.1)
    np.testing.assert_allclose(value, -(target * log_p).sum(-1).mean(), rtol=1e-5)
    sharp = -np.take_along_axis(log_p, np.asarray(codes)[..., None], -1).mean()
    np.testing.assert_allclose(metrics["bits_per_code"], sharp / math.log(2), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (log_p.argmax(-1) == np.asarray(codes)).mean(), rtol=1e-6)


def test_log_probabilities_equal_numpy():
    params = random_params(GRID)
    codes, labels = random_batch(GRID, 3)
    expected = numpy_log_probabilities(params, GRID, codes, labels)
    np.testing.assert_allclose(log_probabilities(params, GRID, codes, labels), expected, atol=2e-5)


def test_label_dropout_replaces_the_label_by_no_class():
    params = random_params(SHALLOW)
    codes, labels = random_batch(SHALLOW, 4)
    expected = -numpy_log_probabilities(params, SHALLOW, codes, np.full(4, SHALLOW.no_class)).mean()
    np.testing.assert_allclose(
        loss(jax.random.key(0), params, SHALLOW, codes, labels, label_dropout=1.0)[0], expected, rtol=1e-5
    )


def test_label_dropout_acts_at_its_rate():
    params = random_params(SHALLOW)
    codes, _ = random_batch(SHALLOW, 1)
    # The same sequence 400 times, all classes with one embedding: each row's gradient is the share of its label.
    codes = jnp.broadcast_to(codes, (400, 6))
    classes = jnp.broadcast_to(params["classes"][:1], params["classes"].shape)

    @jax.jit
    @jax.grad
    def gradient(classes):
        merged = {**params, "classes": classes}
        return gpt.loss(jax.random.key(0), merged, SHALLOW, codes, jnp.ones(400, jnp.int32), label_dropout=0.25)[0]

    size = np.linalg.norm(gradient(classes), axis=1)
    assert np.all(size[[0, 2]] == 0)
    assert abs(size[3] / size.sum() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 400)


def test_dropout_acts_in_training_only():
    arch = SHALLOW._replace(dropout=0.5)
    params = random_params(arch)
    codes, labels = random_batch(arch, 4)
    one, again, other = (float(loss(jax.random.key(k), params, arch, codes, labels)[0]) for k in (0, 0, 1))
    assert one == again
    assert one != other
    still = loss(jax.random.key(0), params, arch, codes, labels, label_smoothing=0.1, train=False)[0]
    np.testing.assert_allclose(still, -numpy_log_probabilities(params, arch, codes, labels).mean(), rtol=1e-5)


def test_bfloat16_is_near_float32_and_keeps_float32_outside():
    arch = SHALLOW._replace(bfloat16=True)
    params = random_params(SHALLOW, scale=0.1)
    codes, labels = random_batch(SHALLOW, 8)
    value_and_gradient = jax.value_and_grad(lambda p: gpt.loss(jax.random.key(0), p, arch, codes, labels)[0])
    half, gradient = jax.jit(value_and_gradient)(params)
    full = -numpy_log_probabilities(params, SHALLOW, codes, labels).mean()
    assert half.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    assert half != full
    np.testing.assert_allclose(half, full, rtol=1e-2)


def test_training_reaches_the_entropy_of_a_markov_source():
    # First code: a permutation of the classes. Afterwards: stay with probability 3/4, else step up. Entropy 0.811 bits.
    arch = gpt.Architecture(4, 5, 4, embed_dim=32, num_layers=1, num_heads=2, dropout=0.0)
    first = np.array([2, 0, 3, 1])
    rng = np.random.default_rng(0)
    num = 2048
    labels = rng.integers(0, 4, num)
    codes = first[labels][:, None] + np.cumsum(np.pad(rng.random((num, 4)) < 0.25, ((0, 0), (1, 0))), axis=1)
    data = jnp.asarray(codes % 4, jnp.int32), jnp.asarray(labels, jnp.int32)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 120))

    @jax.jit
    def step(params, state, key):
        rows = jax.random.randint(key, (128,), 0, num)
        batch = data[0][rows], data[1][rows]
        gradient = jax.grad(lambda p: loss(key, p, arch, *batch)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = jax.jit(gpt.init, static_argnums=1)(jax.random.key(0), arch)
    state = optimizer.init(params)
    for i in range(120):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(1), i))
    log_p = np.asarray(log_probabilities(params, arch, *data)) / math.log(2)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert -log_p[:, 0].mean() < 0.01
    assert abs(-log_p[:, 1:].mean() - entropy) < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads that divides"),
        ({"grid": (2, 2)}, "h \\* w = length"),
        ({"dropout": 1.0}, "dropout in"),
        ({"num_codes": 0}, "num_codes >= 1"),
        ({"num_classes": -1}, "num_classes >= 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        gpt.init(jax.random.key(0), ARCH._replace(**changes))


def test_settings_out_of_range_are_refused():
    params = random_params(ARCH)
    codes, labels = random_batch(ARCH, 2)
    with pytest.raises(ValueError, match="at most 6 codes"):
        logits(params, ARCH, jnp.zeros(7, jnp.int32), 0)
    with pytest.raises(ValueError, match="label_smoothing"):
        loss(jax.random.key(0), params, ARCH, codes, labels, label_smoothing=1.0)
    with pytest.raises(ValueError, match="label_dropout"):
        loss(jax.random.key(0), params, ARCH, codes, labels, label_dropout=1.5)
