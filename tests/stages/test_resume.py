"""The graph and the codebook in shards: what a kill leaves, and what each changed input makes void."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import geometry
from geovq_jax import workdir as files
from geovq_jax.config import default_config
from geovq_jax.stages import codes

WEIGHTS = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A work directory with latents and a decoder, and a counter of the calls of each expensive part."""
    config = default_config()
    with config.unlocked():
        config.graph.k, config.graph.num_images = 8, 0
        config.codebook.num_clusters, config.codebook.refine = 9, False
    latents = np.random.default_rng(1).normal(size=(170, 3)).astype(np.float32)
    params = {"weights": WEIGHTS}

    def write(mean):
        files.save_npz(tmp_path / "latents" / "train.npz", mean=mean, image_shape=np.array([7]))

    write(latents)
    monkeypatch.setattr(codes, "METRIC_SHARD", 40)
    monkeypatch.setattr(codes, "NEIGHBOUR_SHARD", 60)
    monkeypatch.setattr(codes, "EDGE_SHARD", 250)
    monkeypatch.setattr(codes, "load_vae", lambda *_: (params, "small"))
    monkeypatch.setattr(
        codes, "decoder", lambda params, arch: jax.tree_util.Partial(lambda p, z: jnp.tanh(z @ p["weights"]), params)
    )
    calls: dict[str, int] = {}
    dies = {}
    for name in ("node_metrics", "knn", "lengths_from_metrics"):
        monkeypatch.setattr(codes.geometry, name, counted(getattr(geometry, name), name, calls, dies))
    return tmp_path, config, calls, dies, write, latents, params


def counted(function, name, calls, dies):
    def call(*arguments, **settings):
        calls[name] = calls.get(name, 0) + 1
        if dies.get(name) == calls[name]:
            raise KeyboardInterrupt
        return function(*arguments, **settings)

    return call


def build(run):
    """Build the graph; how often each part was called, and the graph's bits."""
    workdir, config, calls, *_ = run
    calls.clear()
    codes.build_graph(workdir, config)
    return dict(calls), (workdir / "graph.npz").read_bytes()


@pytest.mark.parametrize("part", ["node_metrics", "knn", "lengths_from_metrics"])
def test_a_killed_graph_loses_one_shard(run, part):
    workdir, _, calls, dies, *_ = run
    whole, unbroken = build(run)
    assert whole["node_metrics"] == 5
    assert whole["knn"] == 3
    assert whole["lengths_from_metrics"] >= 3
    files.remove(workdir / "shards")
    files.remove(workdir / "graph.npz")
    calls.clear()
    dies[part] = whole[part] - 1
    with pytest.raises(KeyboardInterrupt):
        codes.build_graph(workdir, run[1])
    dies.clear()
    again, resumed = build(run)
    later = list(whole)[list(whole).index(part) + 1 :]
    assert again == {part: 2} | {name: whole[name] for name in later}
    assert resumed == unbroken


def test_a_changed_input_makes_void_what_depends_on_it_and_nothing_else(run):
    workdir, config, _, _, write, latents, params = run
    whole, _ = build(run)
    assert build(run)[0] == {}
    config.graph.symmetry = "mutual"
    assert build(run)[0].keys() == {"lengths_from_metrics"}
    config.graph.symmetry, config.graph.k = "union", 9
    assert build(run)[0].keys() == {"knn", "lengths_from_metrics"}
    params["weights"] = 2 * WEIGHTS
    found, bits = build(run)
    assert found.keys() == {"node_metrics", "lengths_from_metrics"}
    assert found["node_metrics"] == whole["node_metrics"]
    write(latents[::-1])
    assert build(run)[0].keys() == whole.keys()
    files.remove(workdir / "shards")
    write(latents)
    assert build(run)[1] == bits


@pytest.mark.parametrize("method", ["alternate", "swap"])
def test_a_killed_search_for_a_codebook_goes_on(run, monkeypatch, method):
    """The rounds after the cut start from the saved state and lead to the same codebook."""
    workdir, config, *_ = run
    config.codebook.method = method
    build(run)
    monkeypatch.setattr(codes, "SAVE_EVERY", 0.0)
    step, done = codes.kmedoids.step, []

    def counted_step(graph, state):
        if len(done) == dies_at:
            raise KeyboardInterrupt
        done.append(len(state.history))
        return step(graph, state)

    monkeypatch.setattr(codes.kmedoids, "step", counted_step)
    dies_at = None
    codes.build_codebook(workdir, config)
    unbroken, rounds = (workdir / "codebook.npz").read_bytes(), list(done)
    assert len(rounds) >= 3
    saved = workdir / "shards" / "codebook.npz"
    assert not saved.exists()
    for cut in sorted({1, len(rounds) // 2, len(rounds) - 1}):
        (workdir / "codebook.npz").unlink()
        done.clear()
        dies_at = cut
        with pytest.raises(KeyboardInterrupt):
            codes.build_codebook(workdir, config)
        assert saved.exists()
        done.clear()
        dies_at = None
        codes.build_codebook(workdir, config)
        assert done == rounds[cut:]
        assert (workdir / "codebook.npz").read_bytes() == unbroken


def test_a_saved_search_is_used_under_its_key_alone(run, monkeypatch):
    workdir, *_ = run
    graph = geometry.knn_graph(np.random.default_rng(0).random((40, 2)), 4)
    state = codes.kmedoids.start(graph, 5, seed=0)
    path = workdir / "state.npz"
    assert codes._load_state(path, "a") is None
    files.save_npz(path, key="a", **state._asdict())
    found = codes._load_state(path, "a")
    assert all(one.tobytes() == other.tobytes() for one, other in zip(found, state, strict=True))
    assert codes._load_state(path, "b") is None
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:], b""):
        path.write_bytes(damaged)
        assert codes._load_state(path, "a") is None
    files.save_npz(path, key="a", medoids=np.arange(5))
    assert codes._load_state(path, "a") is None


def test_nothing_is_saved_before_its_time(run, monkeypatch):
    workdir, config, *_ = run
    build(run)
    written, save = [], files.save_npz
    monkeypatch.setattr(codes, "save_npz", lambda path, **arrays: (written.append(path), save(path, **arrays)))
    codes.build_codebook(workdir, config)
    assert workdir / "shards" / "codebook.npz" not in written
