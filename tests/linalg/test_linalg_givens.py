"""What JAX and Lineax give this room, held to the statements that its own methods rest on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

EPS = np.finfo(float).eps
N = 6


@pytest.mark.covers("change-of-basis")
def test_change_of_basis(x64):
    rng = np.random.default_rng(0)
    P, A, x = rng.normal(size=(N, N)), rng.normal(size=(N, N)), rng.normal(size=N)
    kappa = np.linalg.cond(P)
    coordinates = jnp.linalg.solve(P, x)
    np.testing.assert_allclose(P @ coordinates, x, atol=20 * EPS * kappa)  # the vector itself does not change
    similar = np.asarray(jnp.linalg.solve(P, A @ P))
    np.testing.assert_allclose(P @ (similar @ coordinates), A @ x, atol=1e2 * EPS * kappa)
    tol = 1e3 * EPS * kappa
    assert np.trace(similar) == pytest.approx(np.trace(A), abs=tol)
    assert np.linalg.det(similar) == pytest.approx(np.linalg.det(A), rel=tol, abs=tol)
    ours, theirs = (np.sort_complex(np.linalg.eigvals(matrix)) for matrix in (similar, A))
    np.testing.assert_allclose(ours, theirs, atol=tol * 1e2)
    congruent = P.T @ A @ P  # the change of basis of a form, not of a map: other eigenvalues
    assert abs(np.trace(congruent) - np.trace(A)) > 0.1


@pytest.mark.covers("characteristic-polynomial")
def test_characteristic_polynomial(x64):
    A = jax.random.randint(jax.random.key(0), (4, 4), -3, 4).astype(float)
    p = np.asarray(jnp.poly(A))
    assert np.abs(p.imag).max() <= 1e-9  # the roots come in conjugate pairs
    p = p.real
    assert p[0] == 1
    assert p[1] == pytest.approx(-float(jnp.trace(A)), abs=1e-10)  # Vieta: the sum of the eigenvalues
    assert p[-1] == pytest.approx(float(jnp.linalg.det(A)), abs=1e-9)  # (−1)ⁿ det(−A) at t = 0, n even
    value = np.zeros((4, 4))
    for coefficient in p:
        value = value @ np.asarray(A) + coefficient * np.eye(4)
    assert np.abs(value).max() <= 1e-9 * float(jnp.linalg.norm(A)) ** 4  # Cayley and Hamilton
    np.testing.assert_allclose(np.linalg.det(2.5 * np.eye(4) - A), np.polyval(p, 2.5), rtol=1e-9)
    np.testing.assert_allclose(p, np.poly(np.asarray(A)), atol=1e-9)


@pytest.mark.covers("gmres")
def test_gmres(x64):
    rng = np.random.default_rng(1)
    A, b = jnp.asarray(rng.normal(size=(N, N))), jnp.asarray(rng.normal(size=N))
    operator = lx.MatrixLinearOperator(A)

    norms, krylov = [float(jnp.linalg.norm(b))], [np.asarray(b)]
    for _ in range(N):
        krylov.append(np.asarray(A) @ krylov[-1] / np.linalg.norm(krylov[-1]))
    for k in (1, 3, N):
        # `max_steps` counts cycles of `restart` steps, the first of which only forms the residual
        rule = lx.GMRES(rtol=1e-14, atol=1e-14, max_steps=2, restart=k)
        x = lx.linear_solve(operator, b, rule, throw=False).value
        norms.append(float(jnp.linalg.norm(b - A @ x)))
        K = np.linalg.qr(np.stack(krylov[:k], 1))[0]
        least = np.linalg.norm(b - A @ K @ np.linalg.lstsq(np.asarray(A @ K), b)[0])
        assert norms[-1] == pytest.approx(least, abs=1e-9)  # the least residual over the k-th Krylov space
    assert np.all(np.diff(norms) <= 1e-12)
    assert norms[-1] <= 1e-10  # exact in n steps
    restarted = lx.linear_solve(
        operator + lx.MatrixLinearOperator(4 * jnp.eye(N)), b, lx.GMRES(1e-12, 1e-12, restart=3)
    )
    np.testing.assert_allclose(restarted.value, np.linalg.solve(A + 4 * np.eye(N), b), rtol=1e-9)
