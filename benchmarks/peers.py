"""Geodesics of one decoder by `geodesics` and by stochman: length and CPU time.

    python benchmarks/peers.py [--core 0]

The decoder maps R^8 to R^100 by two tanh layers of 64 units, latents N(0, I); 64 pairs, 32 points per curve. Excess is
the mean of length over that of `geodesics` with 64 points and tolerance 1e-7, less one; lengths are those of decoded
curves at 1,000 points. stochman comes with the extra `bench`; without it its lines are left out.
"""

import argparse
import os
import time

D, PAIRS, POINTS, SAMPLES = 8, 64, 32, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    # Before the imports: XLA and torch size their thread pools by the cores they may use.
    os.sched_setaffinity(0, {arguments.core})

    import jax
    import jax.numpy as jnp
    import numpy as np
    from scipy.interpolate import CubicSpline

    from geovq_jax.geometry import geodesics

    keys = jax.random.split(jax.random.key(D), 4)
    shapes, gains = ((64, D), (64, 64), (100, 64)), (2.0, 2.0, 1.0)
    weights = [
        np.asarray(gain * jax.random.normal(key, shape) / np.sqrt(shape[1]))
        for key, shape, gain in zip(keys, shapes, gains, strict=False)
    ]
    z = np.asarray(jax.random.normal(keys[3], (2 * PAIRS, D)))
    a, b = z[:PAIRS], z[PAIRS:]
    decode = jax.tree_util.Partial(lambda w, z: w[2] @ jnp.tanh(w[1] @ jnp.tanh(w[0] @ z)), weights)

    def lengths(curves):
        """Of decoded curves [m, any number, d]."""
        images = jax.vmap(jax.vmap(decode))(jnp.asarray(curves, jnp.float32))
        return np.asarray(jnp.sum(jnp.linalg.norm(images[:, 1:] - images[:, :-1], axis=-1), axis=1))

    def sampled(curves):
        """Cubic splines through the points of curves at equal steps of their parameter."""
        there = np.linspace(0.0, 1.0, SAMPLES)
        return np.stack([CubicSpline(np.linspace(0.0, 1.0, len(c)), c)(there) for c in np.asarray(curves)])

    best = lengths(sampled(geodesics(decode, a, b, num_points=64, tolerance=1e-7).curve))

    def report(name, function):
        times = []
        for _ in range(2):
            start = time.process_time()
            curves = function()
            times.append(time.process_time() - start)
        print(
            f"{name:<36} excess {np.mean(lengths(curves) / best) - 1:9.4%}, CPU-s {times[0]:6.2f}, again "
            f"{times[1]:6.2f}",
            flush=True,
        )

    report("straight line", lambda: a[:, None] + np.linspace(0.0, 1.0, SAMPLES)[None, :, None] * (b - a)[:, None])
    report("geodesics", lambda: sampled(np.asarray(geodesics(decode, a, b, num_points=POINTS).curve)))

    try:
        import torch
        from stochman.curves import CubicSpline as Spline
        from stochman.geodesic import geodesic_minimizing_energy
        from stochman.manifold import EmbeddedManifold
    except ImportError:
        print("stochman is not installed")
        return
    torch.set_num_threads(1)
    first, second, third = (torch.tensor(w).T for w in weights)

    class Decoder(EmbeddedManifold):
        def embed(self, points, jacobian=False):
            return torch.tanh(torch.tanh(points @ first) @ second) @ third

    def of_stochman(max_iter, num_nodes):
        curve = Spline(torch.tensor(a), torch.tensor(b), num_nodes=num_nodes)
        geodesic_minimizing_energy(curve, Decoder(), max_iter=max_iter, eval_grid=POINTS)
        with torch.no_grad():
            return curve(torch.linspace(0.0, 1.0, SAMPLES)).numpy()

    for max_iter, num_nodes in ((150, 5), (1_000, 5), (1_000, 20)):
        name = f"stochman, {max_iter} steps, {num_nodes} nodes"
        report(name, lambda steps=max_iter, nodes=num_nodes: of_stochman(steps, nodes))


if __name__ == "__main__":
    main()
