import json

import jaxtyping
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

from geovq_jax.evaluation import code_usage as module
from geovq_jax.evaluation.code_usage import code_usage


def draw(shape, num_codes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice(num_codes, shape, p=rng.dirichlet(np.ones(num_codes))).astype(np.int32)


def test_a_small_case_by_hand():
    report = code_usage(np.array([0, 0, 1, 3]), 5)
    assert (report["used"], report["dead"], report["num_items"]) == (3, 2, 4)
    assert report["cell_sizes"] == [2, 1, 0, 1, 0]
    assert report["entropy_bits"] == pytest.approx(1.5)
    assert report["perplexity"] == pytest.approx(2**1.5)
    assert (report["cell_size_min"], report["cell_size_median"], report["cell_size_max"]) == (0, 1.0, 2)
    # Sorted 0 0 1 1 2, mean absolute difference over all ordered pairs 24 / 25, over twice the mean 1.6.
    counts = np.array([2, 1, 0, 1, 0])
    gini = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert report["usage_gini"] == pytest.approx(gini)


@pytest.mark.parametrize("shape", [(500,), (120, 3, 3)])
def test_entropy_and_information_equal_scipy_and_scikit_learn(shape):
    codes = draw(shape, 16)
    labels = np.random.default_rng(1).integers(0, 4, shape[0]).astype(np.int32)
    report = code_usage(codes, 16, labels)
    flat, repeated = codes.ravel(), np.repeat(labels, codes[0].size)
    assert report["entropy_bits"] == pytest.approx(stats.entropy(np.bincount(flat, minlength=16), base=2))
    expected = mutual_info_score(repeated, flat) / np.log(2)
    assert report["mutual_information_bits"] == pytest.approx(expected, abs=1e-9)
    assert report["label_entropy_bits"] == pytest.approx(stats.entropy(np.bincount(labels), base=2))
    assert len(report["per_position"]) == codes[0].size
    for entry, column in zip(report["per_position"], codes.reshape(len(codes), -1).T, strict=True):
        assert entry["used"] == len(np.unique(column))
        assert entry["entropy_bits"] == pytest.approx(stats.entropy(np.bincount(column), base=2))
        assert entry["mutual_information_bits"] == pytest.approx(
            mutual_info_score(labels, column) / np.log(2), abs=1e-9
        )


def test_extremes():
    uniform = code_usage(np.arange(64), 64)
    assert uniform["perplexity"] == pytest.approx(64.0)
    assert uniform["usage_gini"] == pytest.approx(0.0)
    collapsed = code_usage(np.zeros(64, np.int32), 64)
    assert collapsed["perplexity"] == 1.0
    assert collapsed["entropy_bits"] == 0.0
    assert collapsed["usage_gini"] == pytest.approx(63 / 64)
    labels = np.repeat(np.arange(4), 16)
    assert code_usage(labels, 4, labels)["mutual_information_bits"] == pytest.approx(2.0)
    assert code_usage(np.zeros(64, np.int32), 4, labels)["mutual_information_bits"] == 0.0


def test_the_report_is_plain_json():
    report = code_usage(draw((40, 2, 2), 8), 8, np.arange(40) % 3)
    assert json.loads(json.dumps(report)) == report


def test_distortion_in_every_unit():
    values = np.array([[3.0, 4.0], [0.0, 5.0]])
    table = module.distortion({"latent": values, "pixels": np.ones(7)})
    assert table["latent"] == pytest.approx({"mean": 3.0, "rms": np.sqrt(12.5), "median": 3.5, "p95": 4.85})
    assert table["pixels"] == {"mean": 1.0, "rms": 1.0, "median": 1.0, "p95": 1.0}
    with pytest.raises(ValueError, match="finite distances in unit 'geodesic'"):
        module.distortion({"geodesic": np.array([1.0, np.inf])})


def test_refusals():
    with pytest.raises(ValueError, match=r"codes in \[0, 4\), got values from -1 to 2"):
        code_usage(np.array([0, -1, 2]), 4)
    with pytest.raises(ValueError, match=r"codes in \[0, 4\), got values from 0 to 4"):
        code_usage(np.array([0, 4]), 4)
    with pytest.raises(ValueError, match="at least one code"):
        code_usage(np.zeros(0, np.int32), 4)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="one label per image, got 2 for 3"):
            code_usage(np.array([0, 1, 2]), 4, np.array([0, 1]))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
