"""The estimator: scikit-learn's own checks, and the same codes as the table of methods."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from geovq_jax import geometry
from geovq_jax.quantization import METHODS, GeodesicQuantizer, Nodes, assign, fit, measure

WEIGHTS = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
LATENTS = np.random.default_rng(1).normal(size=(80, 2)).astype(np.float32)
HELD_OUT = np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)
DECODE = jax.tree_util.Partial(lambda w, z: jnp.sin(z @ w), WEIGHTS)


# Not among the checks: array API input, which scikit-learn skips unless SCIPY_ARRAY_API is set.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([GeodesicQuantizer(method="kmeans"), GeodesicQuantizer()])
def test_conventions_of_scikit_learn(estimator, check):
    if os.environ.get("SCIPY_ARRAY_API") is None and "array_api" in str(check):
        pytest.skip("SCIPY_ARRAY_API is not set")
    if "check_do_not_raise_errors_in_init" in str(check):
        pytest.skip("the suite checks annotations, against which this check passes every argument on purpose")
    check(estimator)


def test_few_arguments_of_a_quick_kind_pass_the_checks_by_default():
    quantizer = GeodesicQuantizer(3, method="kmeans", random_state=0)
    assert quantizer.get_params()["num_codes"] == 3
    with pytest.raises(ValueError, match="expected 1 <= num_codes <= n_samples = 2, got 3"):
        quantizer.fit(LATENTS[:2])
    assert quantizer.fit_transform(LATENTS).shape == (80, 1)
    assert quantizer.get_feature_names_out().tolist() == ["geodesicquantizer0"]
    codes = pickle.loads(pickle.dumps(quantizer)).predict(HELD_OUT)
    np.testing.assert_array_equal(codes, quantizer.predict(HELD_OUT))


@pytest.mark.parametrize("method", ["mean_metric", "local_metrics", "kmeans_decoded"])
def test_codes_are_those_of_the_table_of_methods(method):
    seed = int(np.random.RandomState(0).randint(2**31))
    metrics = measure(DECODE, LATENTS) if METHODS[method].on_metrics else None
    truth, encoded = fit(method, Nodes(DECODE, LATENTS, metrics), 8, seed=seed)
    quantizer = GeodesicQuantizer(8, method=method, random_state=0).fit(LATENTS, decode_fn=DECODE)
    np.testing.assert_array_equal(quantizer.labels_, encoded.codes)
    np.testing.assert_array_equal(quantizer.predict(HELD_OUT), assign(truth, HELD_OUT, DECODE).codes)
    column = quantizer.transform(HELD_OUT)
    np.testing.assert_array_equal(quantizer.inverse_transform(column), truth.vectors[column[:, 0]])


@pytest.mark.slow
def test_geodesic_codes_are_nearest_in_geodesic_distance():
    quantizer = GeodesicQuantizer(6, random_state=0).fit(LATENTS, decode_fn=DECODE)
    ends = np.repeat(HELD_OUT, 6, axis=0), np.tile(quantizer.code_vectors_, (20, 1))
    lengths = geometry.geodesic_distances(DECODE, *ends).length.reshape(20, 6)
    chosen = np.take_along_axis(lengths, quantizer.predict(HELD_OUT)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, lengths.min(axis=1), rtol=1e-2)
    piped = make_pipeline(FunctionTransformer(), GeodesicQuantizer(6, random_state=0))
    piped.fit(LATENTS, geodesicquantizer__decode_fn=DECODE)
    np.testing.assert_array_equal(piped.predict(HELD_OUT), quantizer.predict(HELD_OUT))


@pytest.mark.parametrize("method", ["geodesic", "geodesic_refined", "mean_metric"])
def test_metrics_alone_do_without_a_decoder(method):
    metrics, own = measure(DECODE, LATENTS), measure(DECODE, HELD_OUT)
    quantizer = GeodesicQuantizer(6, method=method, random_state=0).fit(LATENTS, metrics=metrics)
    codes = quantizer.predict(HELD_OUT, metrics=own)
    gaps = HELD_OUT[:, None] - quantizer.code_vectors_[None]
    squares = np.einsum("nki,nij,nkj->nk", gaps, own, gaps)
    nearest = np.mean(codes == squares.argmin(axis=1))  # straight in the metric of the latent
    assert nearest == 1.0 if method == "geodesic_refined" else nearest > 0.6


def test_every_latent_may_be_a_code():
    quantizer = GeodesicQuantizer(10, random_state=0).fit(LATENTS[:10], decode_fn=DECODE)
    np.testing.assert_array_equal(quantizer.inverse_transform(quantizer.labels_), LATENTS[:10])


@pytest.mark.parametrize(
    ("settings", "given", "words"),
    [
        ({"method": "vq"}, {}, "expected a method among .*, got 'vq'"),
        ({"method": "geodesic_means"}, {"metrics": np.ones((80, 2, 2))}, "expected decode_fn for the method"),
        (
            {"method": "mean_metric"},
            {"metrics": np.ones((80, 2))},
            r"expected metrics \[80, 2, 2\], got shape \(80, 2\)",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_contradictions_are_refused(settings, given, words):
    with pytest.raises(ValueError, match=words):
        GeodesicQuantizer(**settings).fit(LATENTS, **given)


def test_codes_out_of_range_are_refused():
    quantizer = GeodesicQuantizer(3, method="kmeans", random_state=0).fit(LATENTS)
    with pytest.raises(ValueError, match=r"expected codes in \[0, 3\), got 0 to 3"):
        quantizer.inverse_transform([0, 3])
