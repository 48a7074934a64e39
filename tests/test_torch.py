"""Decoders in PyTorch against the same network written in JAX, and the example through the pipeline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra torch")

from geovq_jax import geometry  # noqa: E402
from geovq_jax.geometry.graphs.graph import edges_of  # noqa: E402
from geovq_jax.quantization import assignment, methods  # noqa: E402
from geovq_jax.torch import decode_fn_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=["vanilla", "spatial"])
def pair(request):
    """A decoder in torch, the same in JAX, and latents."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if request.param == "vanilla":
        layers = torch.nn.Sequential(
            torch.nn.Linear(4, 32), torch.nn.SiLU(), torch.nn.Linear(32, 48), torch.nn.Sigmoid()
        )
        (w1, b1), (w2, b2) = ([p.detach().numpy() for p in layers[i].parameters()] for i in (0, 2))

        def by_jax(z):
            return jax.nn.sigmoid(jax.nn.silu(z @ w1.T + b1) @ w2.T + b2).reshape(4, 4, 3)

        by_torch = decode_fn_of(lambda z: layers(z).reshape(-1, 4, 4, 3))
        return by_torch, by_jax, RNG.normal(size=(60, 4)).astype(np.float32)
    layers = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU()),
        *(torch.nn.ConvTranspose2d(8, 2, 4, 2, 1), torch.nn.Sigmoid()),
    )
    (w1, b1), (w2, b2) = ([p.detach().numpy() for p in layers[i].parameters()] for i in (0, 2))

    def convolve(x, kernel, padding, dilation):
        return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), [padding] * 2, lhs_dilation=dilation)[0]

    def by_jax(z):
        x = jax.nn.silu(convolve(z.transpose(2, 0, 1), w1, (1, 1), (1, 1)) + b1[:, None, None])
        flipped = w2.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        return jax.nn.sigmoid(convolve(x, flipped, (2, 2), (2, 2)) + b2[:, None, None]).transpose(1, 2, 0)

    by_torch = decode_fn_of(lambda z: layers(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    return by_torch, by_jax, RNG.normal(size=(24, 4, 4, 3)).astype(np.float32)


def test_metrics_and_edge_lengths_agree(pair):
    by_torch, by_jax, latents = pair
    measured = [assignment.measure(decode_fn, latents) for decode_fn in (by_torch, by_jax)]
    assert np.abs(measured[0] - measured[1]).max() < 1e-4 * np.abs(measured[1]).max()
    points = assignment.rows_of(latents)
    edges = edges_of(geometry.metric_graph(points, geometry.knn(points, 5).indices, measured[1]))[0][:100]
    measure = geometry.edge_lengths if latents.ndim == 2 else geometry.cell_edge_lengths
    for rule in ("endpoints", "simpson", "chord"):
        lengths = [np.asarray(measure(decode_fn, latents, edges, rule=rule)) for decode_fn in (by_torch, by_jax)]
        np.testing.assert_allclose(*lengths, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["mean_metric", "local_metrics", "geodesic_refined", "geodesic_decoded"])
def test_codes_are_all_equal(pair, method):
    *decoders, latents = pair
    points = assignment.rows_of(latents)
    found = []
    for decode_fn in decoders:
        metrics = assignment.measure(decode_fn, latents)
        graph = geometry.metric_graph(points, geometry.knn(points, 6).indices, metrics)
        best = geometry.kmedoids(graph, 8, seed=0)
        nearest = geometry.nearest_source(graph, best.medoids)
        clusters = methods.Clusters(best.medoids, best.labels, np.asarray(nearest.distance))
        nodes = methods.Nodes(decode_fn, latents, metrics, clusters, metrics, "graph")
        quantizer, _ = methods.fit(method, nodes, 8, seed=0)
        codes = assignment.assign(quantizer, latents, decode_fn, metrics=metrics).codes
        images = geometry.decode_all(decode_fn, latents)
        searched = assignment.search(decode_fn, quantizer.vectors, codes, images)
        found.append((codes, searched, quantizer.vectors))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-4)


def test_derivatives_of_both_modes_and_of_second_order_agree(pair):
    by_torch, by_jax, latents = pair
    z, v = jnp.asarray(latents[0]), jnp.asarray(latents[1])
    weights = jnp.asarray(RNG.normal(size=by_jax(z).shape), jnp.float32)

    def value(decode_fn):
        return lambda z: jnp.sum(weights * decode_fn(z) ** 2)

    def squared_speed(decode_fn):
        return lambda z: jnp.sum(jax.jvp(decode_fn, (z,), (v,))[1] ** 2)

    for quantity in (value, squared_speed):
        for derivative in (jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: jax.jacfwd(f)):
            found, expected = (derivative(quantity(decode_fn))(z) for decode_fn in (by_torch, by_jax))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    batched = [jax.vmap(jax.grad(squared_speed(f)))(latents[:3]) for f in (by_torch, by_jax)]
    np.testing.assert_allclose(*batched, rtol=1e-3, atol=1e-5)


def test_geodesics_agree(pair):
    by_torch, by_jax, latents = pair
    if latents.ndim == 4:
        pytest.skip("of vectors")
    ends = [geometry.exp_map(f, latents[0], 0.1 * latents[1]) for f in (by_torch, by_jax)]
    np.testing.assert_allclose(*ends, atol=1e-4)
    curves = [geometry.geodesic(f, latents[0], latents[1], num_points=8) for f in (by_torch, by_jax)]
    np.testing.assert_allclose(curves[0].length, curves[1].length, rtol=1e-4)


@pytest.mark.slow
def test_the_example_goes_through_every_stage(tmp_path):
    folder = tmp_path / "example"
    shutil.copytree(
        ROOT / "examples" / "torch_autoencoder", folder, ignore=shutil.ignore_patterns("weights.*", "*.npz")
    )
    run = [
        sys.executable,
        "-m",
        "geovq_jax.run",
        f"--config={folder / 'config.py'}:smoke",
        f"--workdir={tmp_path / 'run'}",
    ]
    for command in ([sys.executable, folder / "torch_network.py", "50"], run):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len((folder / "autoencoder.py").read_text().splitlines()) <= 40
    codes = np.load(tmp_path / "run" / "codes" / "test.npz")["codes"]
    assert codes.shape == (24, 8, 8)
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 0


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before the imports: XLA sizes its pool of threads by it
import jax
import jax.numpy as jnp
import numpy as np
from geovq_jax.torch import decode_fn_of
decode = jax.jit(jax.vmap(decode_fn_of(lambda z: 2.0 * z)))
for n in (1_000, 20_000):
    z = np.ones((n, 16), np.float32)
    for _ in range(50):
        assert jax.device_get(decode(1.5 * jnp.asarray(z))).sum() == 3.0 * z.size
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are not pinned here")
def test_one_core_does_not_wait_for_itself():
    done = subprocess.run([sys.executable, "-c", ON_ONE_CORE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
