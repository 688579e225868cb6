"""Riemannian gradient descent: tangent spaces and retractions, eigenvectors, orthonormal factors, rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import Composite, RiemannianGradient, SpecialOrthogonal, Sphere, Stiefel, minimize, penalties

RNG = np.random.default_rng(0)
PLACES = ((Sphere(), (5,)), (Stiefel(), (5, 2)), (SpecialOrthogonal(), (4, 4)))


def symmetric(n):
    A = RNG.normal(size=(n, n))
    return A + A.T


@pytest.mark.covers("riemannian-gradient")
@pytest.mark.parametrize(("manifold", "shape"), PLACES)
def test_geometry(manifold, shape, x64):
    x = manifold.nearest(jnp.asarray(RNG.normal(size=shape)))
    assert manifold.defect(x) < 1e-14
    v = manifold.tangent(x, jnp.asarray(RNG.normal(size=shape)))
    w = jnp.asarray(RNG.normal(size=shape))
    # An orthogonal projection: idempotent, and what it takes away is orthogonal to every tangent.
    np.testing.assert_allclose(manifold.tangent(x, v), v, atol=1e-14)
    assert abs(jnp.sum(v * (w - manifold.tangent(x, w)))) < 1e-13
    # A retraction: on the manifold, and x + tv to first order, so the error falls with t².
    errors = []
    for t in (1e-3, 5e-4):
        y = manifold.retract(x, t * v)
        assert manifold.defect(y) < 1e-14
        errors.append(float(jnp.linalg.norm(y - x - t * v)))
    assert 3.9 < errors[0] / errors[1] < 4.1
    # Long steps stay on it, too; the nearest point of a point on the manifold is itself.
    assert manifold.defect(manifold.retract(x, 3 * v)) < 1e-13
    np.testing.assert_allclose(manifold.nearest(x), x, atol=1e-14)


@pytest.mark.covers("riemannian-gradient")
def test_the_rayleigh_quotient_reaches_the_top_eigenvector(dtype):
    A = symmetric(8)
    values, vectors = np.linalg.eigh(A)
    starts = RNG.normal(size=(5, 8)).astype(dtype)
    tol = 20 * float(jnp.finfo(dtype).eps) ** 0.75

    def solve(x0, c):
        matrix = jnp.asarray(A, dtype)
        return minimize(lambda x: -c * (x @ matrix @ x), x0, RiemannianGradient(Sphere()), tol=tol, max_steps=1000)

    for c in (1.0, 1e-12, 1e12):
        found = jax.jit(jax.vmap(solve, (0, None)))(jnp.asarray(starts), jnp.asarray(c, dtype))
        assert np.all(found.converged)
        assert np.all(found.holds)
        np.testing.assert_allclose(
            -found.stats["objective"] / c, values[-1], rtol=1e-5 if dtype == "float32" else 1e-10
        )
        cosine = np.abs(np.asarray(found.value) @ vectors[:, -1])
        np.testing.assert_allclose(cosine, 1, atol=1e-5 if dtype == "float32" else 1e-9)


@pytest.mark.covers("riemannian-gradient")
def test_orthonormal_factors(x64):
    # Brockett's function has its minimum at the leading eigenvectors, in order.
    A, N = symmetric(6), np.asarray([2.0, 1.0])
    values, vectors = np.linalg.eigh(A)
    run = minimize(
        lambda X: -jnp.sum((X.T @ jnp.asarray(A) @ X).diagonal() * N),
        RNG.normal(size=(6, 2)),
        RiemannianGradient(Stiefel()),
        tol=1e-9,
        max_steps=2000,
        history=True,
    )
    assert run.converged
    assert run.holds
    assert abs(float(run.stats["objective"]) + values[-1] * 2 + values[-2]) < 1e-10
    np.testing.assert_allclose(np.abs((vectors[:, [-1, -2]] * run.value).sum(0)), 1, atol=1e-8)
    assert np.nanmax(run.history["defect"]) < 1e-14  # every iterate, not only the last
    objective = run.history["objective"][np.isfinite(run.history["objective"])]
    assert np.all(np.diff(objective) <= 1e-13)


@pytest.mark.covers("riemannian-gradient")
def test_rotations(dtype):
    # Wahba's problem against its closed form, the singular value decomposition (Kabsch).
    P = RNG.normal(size=(10, 3))
    true = np.asarray(SpecialOrthogonal().nearest(jnp.asarray(RNG.normal(size=(3, 3)))))
    Q = (P @ true.T + 0.1 * RNG.normal(size=(10, 3))).astype(dtype)
    P = P.astype(dtype)
    u, _, vh = np.linalg.svd(Q.T.astype(float) @ P)
    best = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vh))]) @ vh
    tol = 1e-3 if dtype == "float32" else 1e-9
    run = minimize(
        lambda R: jnp.sum((P @ R.T - Q) ** 2) / 2,
        np.eye(3, dtype=dtype),
        RiemannianGradient(SpecialOrthogonal()),
        tol=tol,
        max_steps=500,
    )
    assert run.converged
    assert run.holds
    np.testing.assert_allclose(run.value, best, atol=10 * tol)
    assert np.linalg.det(run.value) > 0


@pytest.mark.covers("riemannian-gradient")
def test_a_saddle_is_stationary_and_bad_input_is_refused():
    A = jnp.diag(jnp.asarray([3.0, 2.0, 1.0], "float32"))
    f = lambda x: -x @ A @ x  # noqa: E731
    # A start on the second eigenvector stays: a certificate of stationarity, not of a minimum.
    second = minimize(f, jnp.asarray([0.0, 1.0, 0.0], "float32"), RiemannianGradient(Sphere()), tol=1e-4)
    assert second.converged
    np.testing.assert_allclose(second.value, [0, 1, 0])
    # The origin is as near to every point of the sphere.
    assert Sphere().defect(Sphere().nearest(jnp.zeros(3, "float32"))) < 1e-6
    with pytest.raises(InputError, match="as many rows"):
        minimize(lambda x: x.sum(), jnp.ones((2, 3), "float32"), RiemannianGradient(Stiefel()))
    with pytest.raises(InputError, match="square"):
        minimize(lambda x: x.sum(), jnp.ones((2, 3), "float32"), RiemannianGradient(SpecialOrthogonal()))
    with pytest.raises(InputError, match="one array"):
        minimize(lambda x: x["a"].sum(), {"a": jnp.ones(3, "float32")}, RiemannianGradient(Sphere()))
    with pytest.raises(InputError, match="penalty"):
        minimize(Composite(f, penalties.L1(1.0)), jnp.ones(3, "float32"), RiemannianGradient(Sphere()))
    with pytest.raises(InputError, match="manifold"):
        RiemannianGradient("sphere")
