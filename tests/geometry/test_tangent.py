"""Transport and curvature against closed forms: spheres, surfaces of revolution, products, charts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import geometry
from geovq_jax.geometry import geodesic, pullback_metric

parallel_transport = jax.jit(geometry.parallel_transport, static_argnums=0)
scalar_curvature = jax.jit(geometry.scalar_curvature, static_argnums=0)
sectional_curvature = jax.jit(geometry.sectional_curvature, static_argnums=0)
find = jax.jit(geodesic, static_argnums=0, static_argnames=("num_points", "tolerance"))


def sphere(radius, u):
    """Inverse stereographic projection of R^d: a nonlinear chart of the sphere of dimension d."""
    s = jnp.sum(u * u)
    return radius * jnp.concatenate([2.0 * u, jnp.array([s - 1.0])]) / (1.0 + s)


def torus(z):
    ring = 2.0 + 0.5 * jnp.cos(z[1])
    return jnp.stack([ring * jnp.cos(z[0]), ring * jnp.sin(z[0]), 0.5 * jnp.sin(z[1])])


def pseudosphere(z):
    """The hyperbolic half-plane (z0, z1 > 1) by the tractricoid, of curvature -1."""
    ring = 1.0 / z[1]
    return jnp.stack([ring * jnp.cos(z[0]), ring * jnp.sin(z[0]), jnp.arccosh(z[1]) - jnp.sqrt(1.0 - ring**2)])


def swiss_roll(z):
    return jnp.stack([z[0] * jnp.cos(z[0]), z[1], z[0] * jnp.sin(z[0])])


def bent_chart(z):
    """A nonlinear change of the latents of a surface."""
    return jnp.stack([z[0] + 0.2 * jnp.sin(z[1]), z[1] + 0.1 * z[0] ** 2])


def product(z):
    """Sphere of radius 2 times torus, rotated in x-space: mixed planes are flat."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    return jnp.asarray(rotation) @ jnp.concatenate([sphere(2.0, z[:2]), torus(z[2:])])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("d", [2, 3, 10])
def test_spheres_have_one_curvature_in_all_planes(d):
    z, u, v = np.random.default_rng(d).normal(size=(3, d))
    decode = partial(sphere, 3.0)
    assert float(sectional_curvature(decode, z, u, v)) == pytest.approx(1 / 9)
    assert float(scalar_curvature(decode, z)) == pytest.approx(d * (d - 1) / 9)


@pytest.mark.parametrize("chart", [lambda z: z, bent_chart])
def test_curvature_of_a_torus(chart):
    decode = lambda z: torus(chart(z))  # noqa: E731
    for z in np.random.default_rng(0).uniform(-3, 3, size=(5, 2)):
        angle = float(chart(z)[1])
        gauss = np.cos(angle) / (0.5 * (2.0 + 0.5 * np.cos(angle)))
        assert float(scalar_curvature(decode, z)) == pytest.approx(2 * gauss, rel=1e-8)


@pytest.mark.parametrize(("surface", "curvature"), [(pseudosphere, -1.0), (swiss_roll, 0.0)])
def test_curvature_of_other_surfaces(surface, curvature):
    for z in np.random.default_rng(1).uniform(1.2, 4.0, size=(5, 2)):
        assert float(scalar_curvature(surface, z)) == pytest.approx(2 * curvature, abs=1e-9)
        assert float(sectional_curvature(surface, z, z, np.array([1.0, 0.0]))) == pytest.approx(curvature, abs=1e-9)


def test_curvature_of_a_product_by_planes():
    z = np.array([0.3, -0.5, 1.0, 0.4])
    gauss = np.cos(0.4) / (0.5 * (2.0 + 0.5 * np.cos(0.4)))
    axes = np.eye(4)
    planes = {(0, 1): 0.25, (2, 3): gauss, (0, 2): 0.0, (1, 3): 0.0}
    for (i, j), curvature in planes.items():
        assert float(sectional_curvature(product, z, axes[i], axes[j])) == pytest.approx(curvature, abs=1e-9)
    assert float(scalar_curvature(product, z)) == pytest.approx(2 * (0.25 + gauss))


def test_curvature_is_that_of_small_triangles():
    """Gauss-Bonnet on a random decoder: the angles of a small geodesic triangle exceed pi by curvature times area."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(16, 2)), rng.normal(size=(8, 16)) / 4.0

    def decode(z):
        return jnp.asarray(b) @ jnp.tanh(jnp.asarray(a) @ z)

    centre, size = np.array([0.2, -0.1]), 0.03
    corners = centre + size * np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    settings = {"num_points": 129, "tolerance": 1e-16}
    sides = {(i, j): find(decode, corners[i], corners[j], **settings) for i in range(3) for j in range(3) if i != j}
    total = 0.0
    for i in range(3):
        metric = np.asarray(pullback_metric(decode, corners[i]))
        starts = [sides[i, j].curve for j in range(3) if j != i]
        u, v = (np.asarray(-1.5 * c[0] + 2.0 * c[1] - 0.5 * c[2]) for c in starts)
        total += np.arccos(u @ metric @ v / np.sqrt((u @ metric @ u) * (v @ metric @ v)))
    edges = corners[1:] - corners[0]
    area = 0.5 * abs(np.linalg.det(edges)) * np.sqrt(np.linalg.det(np.asarray(pullback_metric(decode, centre))))
    assert total - np.pi == pytest.approx(0.5 * float(scalar_curvature(decode, centre)) * area, rel=0.05)


def test_velocities_that_span_no_plane_have_no_curvature():
    z = np.array([0.3, 0.2])
    assert np.isnan(sectional_curvature(torus, z, z, 2.0 * z))
    assert float(scalar_curvature(lambda t: torus(jnp.stack([t[0], t[0] ** 2])), z[:1])) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("d", [2, 10])
def test_transport_along_a_great_circle_is_exact_whatever_the_step(d):
    rng = np.random.default_rng(d)
    frame, _ = np.linalg.qr(rng.normal(size=(d + 1, 3)))
    x, direction, other = frame.T  # a great circle and a vector normal to it
    angles = np.array([0.0, 0.7, 1.1, 2.5])
    points = np.cos(angles)[:, None] * x + np.sin(angles)[:, None] * direction
    curve = points[:, :-1] / (1.0 - points[:, -1:])
    decode = partial(sphere, 1.0)
    jacobian = np.stack([np.asarray(jax.jacobian(decode)(z)) for z in curve])
    start = np.linalg.lstsq(jacobian[0], 2.0 * direction + 3.0 * other, rcond=None)[0]
    carried = np.asarray(parallel_transport(decode, curve, start))
    ahead = -np.sin(angles)[:, None] * x + np.cos(angles)[:, None] * direction
    np.testing.assert_allclose(np.einsum("tpd,td->tp", jacobian, carried), 2.0 * ahead + 3.0 * other, atol=1e-12)


@pytest.mark.parametrize(
    ("surface", "height", "slope"),
    [
        (torus, 1.0, -np.sin(1.0)),  # the parallel has radius 2 + cos(v) / 2, and v / 2 is the length of a meridian
        (pseudosphere, 2.0, 0.5),  # radius 1 / y, and log y is the length of a meridian
        (lambda z: torus(bent_chart(z)), None, None),
    ],
)
def test_transport_around_a_parallel_turns_by_its_slope_to_second_order(surface, height, slope):
    """The turn is 2 pi dr/ds, r the radius of the parallel and s the length along meridians; error ratio 4 at h / 2."""
    errors = []
    for steps in (100, 200):
        around = np.linspace(0.0, 2.0 * np.pi, steps + 1)
        if height is None:  # no parallel: against a finer solution
            curve = lambda t: np.stack([np.cos(t), 1.5 * np.sin(t)], axis=1)  # noqa: E731
            fine = parallel_transport(surface, curve(np.linspace(0.0, 2.0 * np.pi, 12_801)), np.array([1.0, 0.5]))
            carried = parallel_transport(surface, curve(around), np.array([1.0, 0.5]))
            errors.append(float(jnp.linalg.norm(carried[-1] - fine[-1])))
            continue
        curve = np.stack([around, np.full(steps + 1, height)], axis=1)
        metric = np.asarray(pullback_metric(surface, curve[0]))
        lengths = np.sqrt(np.diag(metric))  # of the axes, which are orthogonal
        carried = np.asarray(parallel_transport(surface, curve, np.array([0.0, 1.0]) / lengths))
        norms = np.sqrt(np.einsum("ti,ij,tj->t", carried, metric, carried))
        np.testing.assert_allclose(norms, 1.0, rtol=1e-12)
        turned = np.exp(2j * np.pi * slope)
        errors.append(min(abs(complex(*(carried[-1] * lengths)[::-1]) - t) for t in (turned, turned.conj())))
    assert errors[0] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_transport_keeps_the_velocity_of_a_geodesic_and_returns():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(32, 5)), rng.normal(size=(20, 32)) / 5.0

    def decode(z):
        return jnp.asarray(b) @ jnp.tanh(jnp.asarray(a) @ z)

    curve = np.asarray(find(decode, *rng.normal(size=(2, 5)) / 2, num_points=200, tolerance=1e-14).curve)
    velocity = np.gradient(curve, axis=0, edge_order=2)
    carried = np.asarray(parallel_transport(decode, curve, velocity[0]))
    np.testing.assert_allclose(carried, velocity, atol=2e-3 * np.abs(velocity).max())
    back = parallel_transport(decode, curve[::-1], carried[-1])
    np.testing.assert_allclose(back[-1], velocity[0], rtol=1e-9, atol=1e-12)


def test_ignored_directions_are_lost():
    def cylinder(z):
        return jnp.stack([jnp.cos(z[0]), jnp.sin(z[0]), z[1]])

    curve = np.stack([np.linspace(0, 1, 5), np.zeros(5), np.linspace(0, 2, 5)], axis=1)
    carried = parallel_transport(cylinder, curve, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(carried, np.tile([1.0, 2.0, 0.0], (5, 1)), atol=1e-9)
    assert float(scalar_curvature(cylinder, curve[1])) == pytest.approx(0.0, abs=1e-9)
