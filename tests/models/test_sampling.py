"""Sampling against the uncached network, exhaustive enumeration and plain numpy filters."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare

from geovq_jax.models import gpt
from geovq_jax.models.sampling import complete, sample, truncate

ARCH = gpt.Architecture(9, 6, 3, embed_dim=16, num_layers=1, num_heads=2, grid=(2, 3))
TINY = gpt.Architecture(3, 3, 2, embed_dim=8, num_layers=1, num_heads=1)

log_probabilities = jax.jit(gpt.log_probabilities, static_argnums=1)


def random_params(arch, scale=0.5):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(gpt.init, arch=arch), jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape), jnp.float32), shapes)


@jax.jit(static_argnums=1)
def uncached(params, arch, codes, labels):
    return jax.vmap(gpt.logits, (None, None, 0, 0))(params, arch, codes, labels)


def continue_greedily(params, arch, codes, labels, start, guidance=1.0):
    """Argmax from place `start` on, the whole sequence through the uncached network for every place."""
    codes = np.array(codes)
    for place in range(start, arch.length):
        bound = log_softmax(np.asarray(uncached(params, arch, jnp.asarray(codes), labels)), axis=-1)
        free = uncached(params, arch, jnp.asarray(codes), jnp.full_like(labels, arch.no_class))
        free = log_softmax(np.asarray(free), axis=-1)
        codes[:, place] = (free + guidance * (bound - free))[:, place].argmax(-1)
    return codes


@pytest.mark.parametrize(
    "arch",
    [
        ARCH._replace(length=16, grid=(4, 4), num_layers=2),
        ARCH._replace(length=64, grid=None, tied=False),
        ARCH._replace(length=256, grid=(16, 16)),
    ],
)
def test_cached_logits_equal_uncached(arch):
    params = random_params(arch, scale=0.3)
    rng = np.random.default_rng(1)
    codes = jnp.asarray(rng.integers(0, arch.num_codes, (3, arch.length)), jnp.int32)
    labels = jnp.asarray([0, 2, arch.no_class])

    @jax.jit
    def cached(params):
        def step(carry, position):
            tokens, caches = carry
            logits, caches = gpt.cached_logits(params, arch, tokens, labels, caches, position)
            return (codes[:, position], caches), logits

        start = jnp.full(3, arch.bos), gpt.empty_cache(params, arch, 3)
        return jax.lax.scan(step, start, jnp.arange(arch.length))[1].swapaxes(0, 1)

    expected = uncached(params, arch, codes, labels)
    assert jnp.std(expected) > 0.2
    np.testing.assert_allclose(cached(params), expected, atol=1e-5)


def test_joint_distribution_by_enumeration():
    params = random_params(TINY)
    sequences = np.array(list(product(range(3), repeat=3)))
    labels = jnp.zeros(20_000, jnp.int32)
    drawn = sample(jax.random.key(0), params, TINY, labels)
    counts = np.bincount(np.asarray(drawn.codes) @ [9, 3, 1], minlength=27)
    log_p = log_probabilities(params, TINY, jnp.asarray(sequences), jnp.zeros(27, jnp.int32))
    expected = np.exp(np.asarray(log_p, np.float64).sum(1))
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
    assert chisquare(counts, 20_000 * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("settings", [{"temperature": 0.6}, {"guidance": 1.7, "temperature": 1.4}])
def test_distribution_of_the_first_code(settings):
    params = random_params(TINY)
    rows = uncached(params, TINY, jnp.zeros((2, 3), jnp.int32), jnp.asarray([1, TINY.no_class]))[:, 0]
    bound, free = log_softmax(np.asarray(rows, np.float64), axis=-1)
    mixed = free + settings.get("guidance", 1.0) * (bound - free)
    expected = softmax(mixed / settings.get("temperature", 1.0))
    drawn = sample(jax.random.key(1), params, TINY, jnp.ones(20_000, jnp.int32), **settings)
    counts = np.bincount(np.asarray(drawn.codes)[:, 0], minlength=3)
    assert chisquare(counts, 20_000 * expected).pvalue > 1e-3
    assert chisquare(counts, 20_000 * softmax(bound)).pvalue < 1e-3


def test_special_tokens_are_never_drawn():
    arch = gpt.Architecture(8, 4, 0, embed_dim=8, num_layers=1, num_heads=1)
    params = random_params(arch)
    # A tied head over the whole vocabulary would draw little else.
    params["tokens"] = params["tokens"].at[arch.num_codes :].multiply(100.0)
    drawn = sample(jax.random.key(2), params, arch, jnp.zeros(25_000, jnp.int32), temperature=2.0)
    assert drawn.codes.dtype == jnp.int32
    assert drawn.codes.shape == (25_000, 4)
    assert set(np.unique(drawn.codes)) == set(range(8))


def test_a_batch_equals_batches_of_one():
    params = random_params(ARCH)
    key = jax.random.key(3)
    labels = jnp.arange(64, dtype=jnp.int32) % 4
    settings = {"temperature": 0.9, "top_k": 7, "top_p": 0.95, "guidance": 1.5}
    whole = sample(key, params, ARCH, labels, **settings)
    assert len(np.unique(whole.codes, axis=0)) > 16
    for j in range(64):
        one = sample(jax.random.fold_in(key, j)[None], params, ARCH, labels[j : j + 1], **settings)
        np.testing.assert_array_equal(one.codes[0], whole.codes[j])
        np.testing.assert_allclose(one.log_probabilities[0], whole.log_probabilities[j], atol=1e-5)


@pytest.mark.parametrize("settings", [{"temperature": 2.0}, {"temperature": 2.0, "guidance": 3.0}])
def test_log_probabilities_are_those_of_the_prior(settings):
    params = random_params(ARCH)
    labels = jnp.asarray([0, 1, 2, 3])
    drawn = sample(jax.random.key(4), params, ARCH, labels, **settings)
    expected = log_probabilities(params, ARCH, drawn.codes, labels)
    np.testing.assert_allclose(drawn.log_probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_greedy_is_the_most_likely_code_whatever_the_key(guidance):
    params = random_params(ARCH)
    labels = jnp.asarray([0, 1, 2, 3])
    one, other = (
        sample(jax.random.key(k), params, ARCH, labels, temperature=0.0, guidance=guidance).codes for k in (0, 1)
    )
    np.testing.assert_array_equal(one, other)
    expected = continue_greedily(params, ARCH, np.zeros((4, 6), np.int32), labels, 0, guidance or 1.0)
    np.testing.assert_array_equal(one, expected)


def test_narrow_filters_are_greedy():
    params = random_params(ARCH)
    labels = jnp.asarray([0, 1, 2, 3])
    greedy = sample(jax.random.key(0), params, ARCH, labels, temperature=0.0).codes
    for settings in ({"top_k": 1}, {"top_p": 1e-6, "min_p": 1e-9}, {"top_p": 1.0, "min_p": 1.0}):
        drawn = sample(jax.random.key(0), params, ARCH, labels, temperature=3.0, **settings)
        np.testing.assert_array_equal(drawn.codes, greedy)


def test_guidance_of_zero_is_unconditional():
    params = random_params(ARCH)
    labels = jnp.asarray([0, 1, 2, 3])
    guided = sample(jax.random.key(5), params, ARCH, labels, guidance=0.0)
    free = sample(jax.random.key(5), params, ARCH, jnp.full_like(labels, ARCH.no_class))
    np.testing.assert_array_equal(guided.codes, free.codes)


def test_prompt_is_kept_and_continued():
    params = random_params(ARCH)
    labels = jnp.asarray([2, 0, 3, 1])
    prompt = np.pad(np.array([[8, 1, 3], [5, 5, 2], [0, 0, 0], [4, 8, 5]], np.int32), ((0, 0), (0, 3)))
    upper = np.arange(6) < 3
    drawn = sample(jax.random.key(6), params, ARCH, labels, temperature=0.0, prompt=jnp.asarray(prompt), kept=upper)
    np.testing.assert_array_equal(drawn.codes, continue_greedily(params, ARCH, prompt, labels, 3))
    expected = log_probabilities(params, ARCH, drawn.codes, labels)
    np.testing.assert_allclose(drawn.log_probabilities, expected, atol=1e-5)
    # The upper half fixes the lower half's distribution: what the prompt holds below is not read.
    other = jnp.asarray(prompt).at[:, 3:].set(7)
    for length in (0, 3, 6):
        kept = np.arange(6) < length
        found = sample(jax.random.key(7), params, ARCH, labels, prompt=jnp.asarray(prompt), kept=kept)
        np.testing.assert_array_equal(found.codes[:, :length], prompt[:, :length])
        if length == 3:
            again = sample(jax.random.key(7), params, ARCH, labels, prompt=other, kept=kept)
            np.testing.assert_array_equal(again.codes, found.codes)


@pytest.mark.parametrize("kept", [(False, False, True), (True, False, True), (True, True, False)])
def test_completions_obey_the_distribution_given_every_kept_code(kept):
    arch, kept = TINY._replace(tied=False), np.array(kept)
    params = random_params(arch)
    params["head"] = 3.0 * params["head"]  # so that a code says much about the one before it
    sequences = np.array(list(product(range(3), repeat=3)))
    log_p = np.asarray(log_probabilities(params, arch, jnp.asarray(sequences), jnp.ones(27, jnp.int32)), np.float64)
    prompt = np.array([2, 0, 1], np.int32)
    possible = (sequences[:, kept] == prompt[kept]).all(axis=1)
    expected, blind = (np.exp(log_p[:, part].sum(axis=1))[possible] for part in (np.ones(3, bool), ~kept))
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "guidance": 1.0}
    labels, prompts = np.ones(2_000, np.int32), np.tile(prompt, (2_000, 1))
    codes, found = complete(jax.random.key(9), params, arch, labels, settings, prompt=prompts, kept=kept, candidates=24)
    counts = np.bincount(codes @ [9, 3, 1], minlength=27)
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], 2_000 * expected / expected.sum()).pvalue > 1e-3
    if kept[2]:  # codes that are only given those before them have another distribution
        assert chisquare(counts[possible], 2_000 * blind / blind.sum()).pvalue < 1e-3
    np.testing.assert_allclose(found, log_probabilities(params, arch, codes, jnp.asarray(labels)), atol=1e-5)


@pytest.mark.parametrize("arch", [ARCH._replace(length=1, grid=None), TINY._replace(length=1024, grid=(32, 32))])
def test_one_code_and_grids_of_a_thousand(arch):
    params = random_params(arch)
    labels = jnp.asarray([0, 2])
    drawn = sample(jax.random.key(8), params, arch, labels, top_p=0.9)
    assert drawn.codes.shape == (2, arch.length)
    expected = log_probabilities(params, arch, drawn.codes, labels)
    np.testing.assert_allclose(drawn.log_probabilities, expected, atol=1e-5)


def numpy_truncate(logits, top_k, top_p, min_p):
    """Kept indices, by walking down the sorted list."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    kept = order if top_k is None else order[:top_k]
    if top_p is not None:
        probabilities = softmax(logits[kept])
        mass, chosen = 0.0, []
        for index, probability in zip(kept, probabilities, strict=True):
            chosen.append(index)
            mass += probability
            if mass >= top_p:
                break
        kept = chosen
    if min_p is not None:
        probabilities = softmax(logits[kept])
        kept = [i for i, p in zip(kept, probabilities, strict=True) if p >= min_p * probabilities[0]]
    return set(kept)


@pytest.mark.parametrize("top_k", [None, 1, 5, 40])
def test_truncation_equals_numpy(top_k):
    filters = jax.jit(jax.vmap(lambda logits, p, m: truncate(logits, top_k=top_k, top_p=p, min_p=m)))
    only_p = jax.jit(jax.vmap(lambda logits, p: truncate(logits, top_k=top_k, top_p=p)))
    rng = np.random.default_rng(8)
    logits = 2 * rng.standard_normal((200, 20))
    top_p, min_p = rng.random(200), rng.random(200) ** 2
    both = np.asarray(filters(*(jnp.asarray(x, jnp.float32) for x in (logits, top_p, min_p))))
    mass = np.asarray(only_p(jnp.asarray(logits, jnp.float32), jnp.asarray(top_p, jnp.float32)))
    for i in range(200):
        for found, m in ((both[i], min_p[i]), (mass[i], None)):
            kept = np.flatnonzero(found > -np.inf)
            assert set(kept) == numpy_truncate(logits[i], top_k, top_p[i], m)
            np.testing.assert_allclose(found[kept], logits[i][kept], rtol=1e-6)


def test_equal_logits_are_kept_together():
    logits = jnp.asarray([1.0, 3.0, 2.0, 2.0, 0.0])
    np.testing.assert_array_equal(np.isfinite(truncate(logits, top_k=2)), [False, True, True, True, False])
    assert np.isfinite(truncate(jnp.zeros(5), min_p=1.0)).all()
    assert np.isfinite(truncate(logits, top_p=1.0)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature >= 0"),
        ({"top_k": 0}, "top_k >= 1"),
        ({"top_p": 0.0}, "top_p in"),
        ({"min_p": 2.0}, "min_p in"),
        ({"kept": np.ones(6, bool)}, "prompt and kept together, got kept alone"),
        ({"prompt": jnp.zeros((2, 6), jnp.int32)}, "prompt and kept together, got prompt alone"),
        ({"prompt": jnp.zeros((2, 5), jnp.int32), "kept": np.ones(5, bool)}, "prompt of shape"),
        ({"prompt": jnp.full((2, 6), 9), "kept": np.ones(6, bool)}, "prompt codes in"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sample(jax.random.key(0), {}, ARCH, jnp.zeros(2, jnp.int32), **settings)


def test_inputs_that_do_not_fit_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="one label per sample"):
        sample(key, {}, ARCH, jnp.full(2, 4))
    with pytest.raises(ValueError, match="one key or 2 keys"):
        sample(jax.random.split(key, 3), {}, ARCH, jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match="class-conditional"):
        sample(key, {}, ARCH._replace(num_classes=0), jnp.zeros(2, jnp.int32), guidance=2.0)
