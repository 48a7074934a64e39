import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from geovq_jax.evaluation import memorisation
from geovq_jax.evaluation import sample_scores as module

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((60, 4)) * np.array([1.0, 0.5, 2.0, 0.1])
FAKE = RNG.standard_normal((45, 4)) * np.array([0.7, 0.9, 2.0, 0.3]) + np.array([0.5, 0.0, 0.0, 0.2])


def tables(compare, real, fake):
    return compare(real, real), compare(fake, fake), compare(real, fake)


def kernel_distance(real, fake):
    return module.kernel_distance(*tables(module.cubic_kernel, real, fake))


def loop_kernel_distance(real, fake):
    def kernel(x, y):
        return (x @ y / len(x) + 1.0) ** 3

    def mean(pairs):
        return np.mean([kernel(x, y) for x, y in pairs])

    within = [mean((a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j) for rows in (real, fake)]
    return sum(within) - 2.0 * mean((a, b) for a in real for b in fake)


def loop_neighbourhoods(real, fake, k):
    """Precision, recall, density and coverage by their definitions."""

    def radius(rows, i):
        return sorted(np.linalg.norm(rows[i] - rows[j]) for j in range(len(rows)) if j != i)[k - 1]

    real_radii, fake_radii = [radius(real, i) for i in range(len(real))], [radius(fake, j) for j in range(len(fake))]
    gaps = np.array([[np.linalg.norm(x - y) for y in fake] for x in real])
    precision = np.mean([any(gaps[i, j] <= real_radii[i] for i in range(len(real))) for j in range(len(fake))])
    recall = np.mean([any(gaps[i, j] <= fake_radii[j] for j in range(len(fake))) for i in range(len(real))])
    density = sum(gaps[i, j] <= real_radii[i] for i in range(len(real)) for j in range(len(fake))) / (k * len(fake))
    coverage = np.mean([min(gaps[i]) <= real_radii[i] for i in range(len(real))])
    return precision, recall, density, coverage


def test_frechet_equals_the_matrix_square_root():
    roots = sqrtm(np.cov(REAL.T) @ np.cov(FAKE.T))
    gap = REAL.mean(axis=0) - FAKE.mean(axis=0)
    expected = gap @ gap + np.trace(np.cov(REAL.T) + np.cov(FAKE.T) - 2.0 * np.real(roots))
    assert module.frechet_distance(REAL, FAKE) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_shifted_and_scaled_copies():
    assert module.frechet_distance(REAL, REAL) == pytest.approx(0.0, abs=1e-9)
    assert module.frechet_distance(REAL, REAL + np.array([3.0, 4.0, 0.0, 0.0])) == pytest.approx(25.0)
    centred = REAL - REAL.mean(axis=0)
    assert module.frechet_distance(centred, 3.0 * centred) == pytest.approx(4.0 * np.trace(np.cov(REAL.T)))


def test_frechet_with_fewer_rows_than_features():
    few, others = RNG.standard_normal((5, 12)), RNG.standard_normal((7, 12))
    # Floor of machine precision only: sqrtm of singular products is unreliable, so the oracle is in the joint span.
    basis = np.linalg.svd(np.concatenate([few - few.mean(0), others - others.mean(0)]))[2][:10].T
    small, large = module.frechet_distance(few @ basis, others @ basis), module.frechet_distance(few, others)
    residue = (few.mean(0) - others.mean(0)) @ (np.eye(12) - basis @ basis.T)
    assert large == pytest.approx(small + residue @ residue, rel=1e-9)


def test_kernel_distance_equals_a_loop():
    assert kernel_distance(REAL, FAKE) == pytest.approx(loop_kernel_distance(REAL, FAKE), rel=1e-9)


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(3)
    values = [kernel_distance(*rng.standard_normal((2, 12, 3))) for _ in range(400)]
    assert abs(np.mean(values)) < 4.0 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhood_scores_equal_their_definitions(k):
    precision, recall, density, coverage = loop_neighbourhoods(REAL, FAKE, k)
    assert module.precision_recall(*tables(cdist, REAL, FAKE), k=k) == pytest.approx((precision, recall))
    assert module.density_coverage(*tables(cdist, REAL, FAKE)[::2], k=k) == pytest.approx((density, coverage))


def test_dropped_mode_costs_recall_and_coverage_but_not_precision():
    real = np.concatenate([RNG.standard_normal((40, 2)), RNG.standard_normal((40, 2)) + 20.0])
    fake = RNG.standard_normal((80, 2))
    precision, recall = module.precision_recall(*tables(cdist, real, fake))
    density, coverage = module.density_coverage(*tables(cdist, real, fake)[::2])
    assert precision > 0.8
    assert density > 0.7
    assert 0.3 < recall <= 0.5
    assert 0.3 < coverage <= 0.5


def test_all_scores_with_intervals():
    scores = module.sample_scores(REAL, FAKE, seed=0, resamples=20)
    assert scores.frechet.value == pytest.approx(module.frechet_distance(REAL, FAKE))
    assert scores.kernel.value == pytest.approx(kernel_distance(REAL, FAKE))
    assert (scores.precision.value, scores.recall.value) == module.precision_recall(*tables(cdist, REAL, FAKE))
    assert (scores.density.value, scores.coverage.value) == module.density_coverage(*tables(cdist, REAL, FAKE)[::2])
    for interval in scores:
        assert interval.low < interval.value < interval.high


def test_frechet_interval_matches_the_spread_over_fresh_draws():
    rng = np.random.default_rng(7)

    def draw():
        return rng.standard_normal((300, 3)), rng.standard_normal((300, 3)) + 1.0

    spread = np.std([module.frechet_distance(*draw()) for _ in range(200)])
    interval = module.sample_scores(*draw(), seed=0, resamples=60).frechet
    assert interval.high - interval.value == pytest.approx(1.96 * spread, rel=0.35)


def test_comparison_is_at_one_size():
    candidates = {"samples": FAKE, "real": RNG.standard_normal((200, 4)) * np.array([1.0, 0.5, 2.0, 0.1])}
    table = module.compare_samples(REAL, candidates, seed=0, max_items=30, resamples=5)
    assert list(table) == ["samples", "real"]
    assert table["real"].frechet.value < table["samples"].frechet.value
    cut = np.sort(np.random.default_rng(0).choice(60, 30, replace=False))
    floor = module.compare_samples(REAL, {"self": REAL[cut]}, seed=0, max_items=30, resamples=5)["self"]
    assert floor.frechet.value == pytest.approx(0.0, abs=1e-9)


def test_class_consistency_by_hand():
    predicted, requested = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 0, 1, 1, 2, 2])
    result = module.class_consistency(predicted, requested, num_classes=4, seed=0)
    assert result.overall.value == pytest.approx(5 / 6)
    np.testing.assert_array_equal(result.per_class, [1.0, 0.5, 1.0, np.nan])


def test_nearest_training_image_equals_scikit_learn_and_sees_copies():
    train = RNG.random((50, 4, 4, 1)).astype(np.float32)
    images = RNG.random((23, 4, 4, 1)).astype(np.float32)
    images[5] = train[17]
    images[6] = train[31] + 1e-4
    expected = NearestNeighbors(n_neighbors=1).fit(train.reshape(50, -1)).kneighbors(images.reshape(23, -1))
    nearest = memorisation.nearest_training_images(images, train, block=7)
    np.testing.assert_array_equal(nearest.indices, expected[1][:, 0])
    np.testing.assert_allclose(nearest.distances, expected[0][:, 0] / 4.0, atol=1e-6)
    assert nearest.distances[5] == 0.0
    assert nearest.distances[6] == pytest.approx(1e-4, rel=1e-2)


def test_memorisation_tells_copies_from_new_images():
    test = RNG.gamma(9.0, 0.01, 400)
    fresh = memorisation.memorisation(RNG.gamma(9.0, 0.01, 400), test, seed=0)
    assert fresh.share_close.low < 0.07
    assert fresh.share_close.value < 0.12
    copies = memorisation.memorisation(RNG.gamma(9.0, 0.0005, 400), test, seed=0)
    assert copies.share_close.value > 0.95
    assert copies.sample_median < copies.test_median == pytest.approx(np.median(test))


def test_diversity_by_a_loop():
    features, labels = RNG.standard_normal((9, 3)), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    means = []
    for label in range(3):
        rows = features[labels == label]
        means.append(np.mean([np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[i + 1 :]]))
    assert module.diversity(features, labels) == pytest.approx(np.mean(means))


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    with pytest.raises(ValueError, match="one width"):
        module.frechet_distance(REAL, FAKE[:, :3])
    with pytest.raises(ValueError, match="at least 12 rows"):
        module.sample_scores(REAL, FAKE[:11], seed=0)
    with pytest.raises(ValueError, match="same data set"):
        memorisation.nearest_training_images(np.zeros((2, 3, 3, 1)), np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="class with at least two"):
        module.diversity(REAL[:3], np.arange(3))
