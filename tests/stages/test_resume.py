"""Metrics, graph and codebook in shards: what a kill leaves, and what each changed input makes void."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import geometry, staleness
from geovq_jax import workdir as files
from geovq_jax.config import default_config, experiment
from geovq_jax.geometry.clustering import kmedoids
from geovq_jax.stages import codebook, graph, records, tensors
from geovq_jax.stages.records import Autoencoder
from geovq_jax.stages.run import Run

WEIGHTS = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)


class Bench:
    """A work directory with latents and a decoder, and a counter of the calls of each expensive part."""

    def __init__(self, workdir, monkeypatch):
        self.workdir, self.config, self.calls, self.dies = workdir, default_config(), {}, {}
        with self.config.unlocked():
            self.config.vae.kind = "vanilla"
            self.config.graph.k, self.config.graph.num_images = 8, 0
            self.config.codebook.num_clusters, self.config.codebook.method = 9, "geodesic"
        self.latents = np.random.default_rng(1).normal(size=(170, 3)).astype(np.float32)
        self.params = {"weights": WEIGHTS}
        self.write(self.latents)
        monkeypatch.setattr(graph, "METRIC_SHARD", 40)
        monkeypatch.setattr(graph, "NEIGHBOUR_SHARD", 60)
        monkeypatch.setattr(graph, "EDGE_SHARD", 250)
        monkeypatch.setattr(Run, "_load_autoencoder", lambda *_: Autoencoder(self.params, "small"))
        monkeypatch.setattr(
            records,
            "decoder_of",
            lambda model: jax.tree_util.Partial(lambda p, z: jnp.tanh(z @ p["weights"]), model.params),
        )
        for name in ("node_metrics", "knn", "straight_lengths"):
            monkeypatch.setattr(geometry, name, self.counted(getattr(geometry, name), name))

    def write(self, mean):
        rows = np.arange(len(mean))
        for split in ("train", "valid", "test"):
            part = mean if split == "train" else mean[:5]
            files.save_npz(
                self.workdir / "latents" / f"{split}.npz",
                mean=part,
                log_variance=part,
                label=rows[: len(part)],
                index=rows[: len(part)],
                image_shape=np.array([7, 1, 1]),
            )

    def counted(self, function, name):
        def call(*arguments, **settings):
            self.calls[name] = self.calls.get(name, 0) + 1
            if self.dies.get(name) == self.calls[name]:
                raise KeyboardInterrupt
            return function(*arguments, **settings)

        return call

    def build(self):
        """Measure and build the graph; how often each part was called, and the graph's bits."""
        self.calls.clear()
        run = Run(self.workdir, self.config)
        graph.measure_metrics(run)
        graph.build_graph(run)
        return dict(self.calls), (self.workdir / "graph.npz").read_bytes()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.mark.parametrize("part", ["node_metrics", "knn", "straight_lengths"])
def test_a_killed_graph_loses_one_shard(bench, part):
    whole, unbroken = bench.build()
    assert whole["node_metrics"] == 5 + 1 + 1
    assert whole["knn"] == 3
    assert whole["straight_lengths"] >= 3
    files.remove(bench.workdir / "shards")
    files.remove(bench.workdir / "graph.npz")
    died = 4 if part == "node_metrics" else whole[part] - 1
    bench.dies[part] = died
    with pytest.raises(KeyboardInterrupt):
        bench.build()
    bench.dies.clear()
    again, resumed = bench.build()
    later = list(whole)[list(whole).index(part) + 1 :]
    assert again == {part: whole[part] - died + 1} | {name: whole[name] for name in later}
    assert resumed == unbroken


def test_a_changed_input_makes_void_what_depends_on_it_and_nothing_else(bench):
    config = bench.config
    whole, _ = bench.build()
    assert bench.build()[0] == {}
    config.graph.symmetry = "mutual"
    assert bench.build()[0].keys() == {"straight_lengths"}
    config.graph.symmetry, config.graph.k = "union", 9
    assert bench.build()[0].keys() == {"knn", "straight_lengths"}
    bench.params["weights"] = 2 * WEIGHTS
    found, bits = bench.build()
    assert found.keys() == {"node_metrics", "straight_lengths"}
    assert found["node_metrics"] == whole["node_metrics"]
    bench.write(bench.latents[::-1])
    assert bench.build()[0].keys() == whole.keys()
    files.remove(bench.workdir / "shards")
    bench.write(bench.latents)
    assert bench.build()[1] == bits


def test_neighbours_are_reranked_by_pullback_length(bench):
    bench.config.graph.k, bench.config.graph.rerank = 4, 20
    bench.build()
    run = Run(bench.workdir, bench.config)
    points, metrics = run.graph.points, run.graph.metrics
    candidates = geometry.knn(points, 20).indices
    gaps = points[candidates] - points[:, None]
    half = np.sqrt(np.einsum("nkd,nde,nke->nk", gaps, metrics, gaps))
    other = np.sqrt(np.einsum("nkd,nkde,nke->nk", gaps, metrics[candidates], gaps))
    nearest = np.take_along_axis(candidates, np.argsort(half + other, axis=1)[:, :4], axis=1)
    expected = {tuple(sorted((i, int(j)))) for i, row in enumerate(nearest) for j in row}
    assert {tuple(edge) for edge in geometry.edges_of(run.graph.graph)[0].tolist()} >= expected


@pytest.mark.parametrize("algorithm", ["alternate", "swap"])
def test_a_killed_search_for_a_codebook_goes_on(bench, monkeypatch, algorithm):
    bench.config.codebook.algorithm = algorithm
    bench.build()
    monkeypatch.setattr(codebook, "SAVE_EVERY", 0.0)
    steps = []
    step = kmedoids.step

    def counted(graph, state):
        steps.append(len(state.history))
        if len(steps) == dies_at:
            raise KeyboardInterrupt
        return step(graph, state)

    monkeypatch.setattr(kmedoids, "step", counted)
    dies_at = 0
    codebook.build_codebook(Run(bench.workdir, bench.config))
    unbroken, rounds = (bench.workdir / "codebook.npz").read_bytes(), len(steps)
    assert not (bench.workdir / "shards" / "codebook.npz").exists()
    assert rounds >= 2
    (bench.workdir / "codebook.npz").unlink()
    steps.clear()
    dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        codebook.build_codebook(Run(bench.workdir, bench.config))
    assert not (bench.workdir / "codebook.npz").exists()
    steps.clear()
    dies_at = 0
    codebook.build_codebook(Run(bench.workdir, bench.config))
    assert len(steps) == rounds - 1  # goes on after the round that was saved
    assert (bench.workdir / "codebook.npz").read_bytes() == unbroken


def test_every_node_its_own_medoid_is_said(bench):
    bench.config.codebook.num_clusters = 170
    bench.build()
    assert "every node is its own medoid" in codebook.build_codebook(Run(bench.workdir, bench.config))


def test_wide_vectors_are_measured_edge_by_edge(bench, monkeypatch):
    bench.build()
    expected = Run(bench.workdir, bench.config)
    kept, metrics = expected.graph, expected.graph.metrics
    monkeypatch.setattr(tensors, "WIDE", 3)
    bench.write(bench.latents)
    run = Run(bench.workdir, bench.config)
    assert run.wide
    assert graph.measure_metrics(run) == "not needed"
    graph.build_graph(run)
    run = Run(bench.workdir, bench.config)
    assert run.graph.metrics is None
    assert run.metrics("train") is None
    found = run.graph.graph
    np.testing.assert_array_equal(found.indices, kept.graph.indices)
    np.testing.assert_allclose(found.data, kept.graph.data, rtol=1e-5)
    some = np.array([3, 100, 4])
    np.testing.assert_allclose(run.metrics_at(some), metrics[some], rtol=1e-5, atol=1e-6)
    bench.config.codebook.distance = "graph"  # whose codes read the metric at every node
    assert not Run(bench.workdir, bench.config).wide
    bench.config.graph.weights = "euclidean"
    assert Run(bench.workdir, bench.config).metrics_at(some) is None


def test_tensors_without_room_are_refused_before_training():
    config = default_config()
    with config.unlocked():
        config.vae.kind, config.codebook.method = "vanilla", "mean_metric"
    tensors.check_memory(config, 10_000, (16,))
    with pytest.raises(ValueError, match="memory for two copies of the metrics of 1,000,000,000 nodes"):
        tensors.check_memory(config, 10**9, (128,))
    config.codebook.method = "geodesic_decoded"
    tensors.check_memory(config, 10**9, (128,))


def test_the_distance_decides_whether_metrics_of_wide_vectors_are_measured_and_makes_them_stale():
    read, settings = {}, {}
    for distance in ("geodesic", "graph"):
        config = experiment(
            "wide", {"vae.kind": "vanilla", "codebook.method": "geodesic", "codebook.distance": distance}
        )
        read[distance] = tensors.are_read(config, (tensors.WIDE,))
        settings[distance] = staleness.settings_of("metrics", config)
    assert read == {"geodesic": False, "graph": True}
    assert settings["geodesic"] != settings["graph"]
