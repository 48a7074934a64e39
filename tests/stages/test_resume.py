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
        config.codebook.num_clusters = 9
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
    for name in ("node_metrics", "knn", "lengths_from_metrics", "kmedoids"):
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


@pytest.mark.parametrize("algorithm", ["alternate", "swap"])
def test_a_killed_search_for_a_codebook_goes_on(run, monkeypatch, algorithm):
    workdir, config, *_ = run
    config.codebook.algorithm = algorithm
    build(run)
    keep = codes.keep_standing
    monkeypatch.setattr(codes, "keep_standing", lambda path, key: keep(path, key, every=0.0))
    codes.build_codebook(workdir, config)
    unbroken = (workdir / "codebook.npz").read_bytes()
    assert not (workdir / "shards" / "codebook.npz").exists()
    rounds = []

    def killed(path, key):
        standing, remember = keep(path, key, every=0.0)

        def dying(arrays):
            rounds.append(len(arrays["history"]))
            if len(rounds) == 3:
                raise KeyboardInterrupt
            remember(arrays)

        return standing, dying

    monkeypatch.setattr(codes, "keep_standing", killed)
    (workdir / "codebook.npz").unlink()
    with pytest.raises(KeyboardInterrupt):
        codes.build_codebook(workdir, config)
    assert not (workdir / "codebook.npz").exists()
    rounds.clear()
    monkeypatch.setattr(codes, "keep_standing", lambda path, key: (killed(path, key)[0], rounds.append))
    codes.build_codebook(workdir, config)
    assert len(rounds[0]["history"]) == 2  # of the round before which it was last kept
    assert (workdir / "codebook.npz").read_bytes() == unbroken
