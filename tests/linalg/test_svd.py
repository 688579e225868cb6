"""The automatic SVD: forms, signs, derivatives, Weyl; and the best rank-k approximation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from corollary.core import Function, InputError
from corollary.linalg import eckart_young, svd

RNG = np.random.default_rng(0)
TALL = RNG.standard_normal((7, 4))


def with_spectrum(s, m, n, seed=0):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((d, len(s))))[0] for d in (m, n))
    return (U * s) @ V.T


@pytest.mark.covers("svd")
@pytest.mark.parametrize("A", [TALL, TALL.T, TALL[:4], TALL[:1], TALL[:, :1], TALL[:1, :1]])
@pytest.mark.parametrize("mode", ["full", "reduced", "compact"])
def test_values_shapes_orthogonality_and_sign(dtype, A, mode):
    A = A.astype(dtype)
    found = svd(A, mode=mode)
    U, s, Vt = found.value
    (m, n), r, eps = A.shape, min(A.shape), np.finfo(dtype).eps
    assert (U.shape, s.shape, Vt.shape) == (((m, m), (r,), (n, n)) if mode == "full" else ((m, r), (r,), (r, n)))
    np.testing.assert_allclose(s, np.linalg.svd(A.astype(float), compute_uv=False), atol=20 * eps * s[0])
    assert np.all(np.diff(s) <= 0)
    assert np.all(s >= 0)
    np.testing.assert_allclose((U[:, :r] * s) @ Vt[:r], A, atol=30 * eps * s[0])
    np.testing.assert_allclose(U.T @ U, np.eye(U.shape[1]), atol=30 * eps)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(Vt.shape[0]), atol=30 * eps)
    assert np.all(np.take_along_axis(Vt[:r], np.abs(Vt[:r]).argmax(1)[:, None], 1) > 0)
    assert bool(found.holds)
    assert U.dtype == dtype


@pytest.mark.covers("svd")
def test_values_to_1e_12_of_numpy():
    A = RNG.standard_normal((60, 40))
    np.testing.assert_allclose(svd(A).value[1], np.linalg.svd(A, compute_uv=False), rtol=1e-12)


@pytest.mark.covers("svd")
def test_compact_has_the_numerical_rank_and_reduced_does_not():
    A = with_spectrum([3.0, 2.0, 1.0], 8, 6)
    assert svd(A, mode="compact").value[0].shape == (8, 3)
    assert svd(A).value[0].shape == (8, 6)
    assert np.all(svd(A, mode="compact").value[1] > 0.5)
    zero = svd(np.zeros((3, 2)), mode="compact")
    assert zero.value[0].shape == (3, 0)
    assert bool(svd(np.zeros((3, 2))).holds)


@pytest.mark.covers("svd")
@pytest.mark.parametrize("scale", [1e-150, 1e150, 1e-290])
def test_scaling(scale):
    plain, scaled = svd(TALL), svd(TALL * scale)
    np.testing.assert_allclose(scaled.value[1], plain.value[1] * scale, rtol=1e-13)
    assert bool(scaled.holds)


@pytest.mark.covers("svd")
def test_weyl_certificate_covers_the_true_error():
    s = 2.0 ** -np.arange(20)
    rng = np.random.default_rng(1)
    for _ in range(20):  # A is U diag(s) V^T rounded once, so its values are s to eps
        A = with_spectrum(s, 30, 20, rng.integers(1000))
        found = svd(A)
        error = np.max(np.abs(found.value[1] - s))
        assert error <= found.certificates["weyl"].measured + 4 * np.finfo(float).eps * np.sqrt(20)
    poor = svd(A.astype(np.float32))
    assert np.max(np.abs(poor.value[1] - np.linalg.svd(A.astype(np.float32).astype(float), compute_uv=False))) <= float(
        poor.certificates["weyl"].measured
    )


@pytest.mark.covers("svd")
def test_weyl_perturbation_theorem(x64):
    values = jax.jit(jax.vmap(lambda A: jnp.linalg.svd(A, compute_uv=False)))
    A, E = RNG.standard_normal((200, 6, 4)), RNG.standard_normal((200, 6, 4)) * 10.0 ** RNG.uniform(-6, 1, (200, 1, 1))
    moved = np.abs(values(A + E) - values(A)).max(axis=1)
    assert np.all(moved <= values(E)[:, 0] * (1 + 1e-12) + 1e-14)


@pytest.mark.covers("svd")
def test_truncated_agrees_with_the_direct_one_and_says_why():
    A = with_spectrum(1.0 / np.arange(1, 61) ** 2, 80, 60)
    direct, krylov, auto = (svd(A, 3, solver=s) for s in ("direct", "krylov", "auto"))
    np.testing.assert_allclose(krylov.value[1], direct.value[1], rtol=1.5e-8)
    for i in (0, 2):  # a value that is good to ε has its vector good to about √(ε/gap): here √(1.5e-8/0.4)
        np.testing.assert_allclose(krylov.value[i], direct.value[i], atol=2e-4)
    assert str(auto.stats["solver"]).startswith("direct: small")
    sparse = svd(scipy.sparse.csr_array(A), 3)
    assert str(sparse.stats["solver"]).startswith("krylov: A is sparse")
    np.testing.assert_allclose(sparse.value[1], direct.value[1], rtol=1e-7)
    theirs = np.sort(scipy.sparse.linalg.svds(A, 3, return_singular_vectors=False))[::-1]
    np.testing.assert_allclose(sparse.value[1], theirs, rtol=1e-7)
    whole = svd(scipy.sparse.csr_array(A))
    np.testing.assert_allclose(whole.value[1], np.linalg.svd(A, compute_uv=False), rtol=1e-10, atol=1e-14)
    large = svd(RNG.standard_normal((600, 510)), 2, accuracy=1e-2)
    assert str(large.stats["solver"]).startswith("krylov: 2 of 510")


@pytest.mark.covers("svd")
def test_of_an_operator(x64):
    operator = Function(lambda x: jnp.asarray(TALL) @ x, 4)
    np.testing.assert_allclose(svd(operator).value[1], np.linalg.svd(TALL, compute_uv=False), rtol=1e-12)


@pytest.mark.covers("svd")
@pytest.mark.parametrize("A", [TALL, TALL.T, TALL[:4]])
@pytest.mark.parametrize("mode", ["reduced", "full"])
def test_derivatives_against_finite_differences(x64, A, mode):
    A, dA = jnp.asarray(A), jnp.asarray(np.random.default_rng(5).standard_normal(A.shape))
    f = jax.jit(lambda A: svd(A, mode=mode).value)
    _, tangent = jax.jvp(f, (A,), (dA,))
    h, r = 1e-6, min(A.shape)
    for part, up, down in zip(tangent, f(A + h * dA), f(A - h * dA), strict=True):
        if part.ndim == 2 and mode == "full":  # the completing columns are free to turn: compare the others
            rows = slice(0, r)
            part, up, down = (x[rows] if part is tangent[2] else x[:, rows] for x in (part, up, down))
        np.testing.assert_allclose(part, (up - down) / (2 * h), atol=1e-8 * 20)
    U, dU = f(A)[0], tangent[0]
    np.testing.assert_allclose(dU.T @ U + U.T @ dU, np.zeros((U.shape[1],) * 2), atol=1e-12)


@pytest.mark.covers("svd")
def test_derivatives_are_safe_and_right_where_values_coincide(x64):
    # σ = 2, 2, 2, 1, 1, and a pair of zeros: functions that ignore the basis have these gradients in closed form
    A = jnp.asarray(with_spectrum([2.0, 2.0, 2.0, 1.0, 1.0], 9, 7))

    def leading_projector_trace(A):
        U = svd(A, mode="reduced").value[0][:, :3]
        return jnp.sum((U @ U.T) * weight)

    weight = jnp.asarray(np.random.default_rng(2).standard_normal((9, 9)))
    dA = jnp.asarray(np.random.default_rng(3).standard_normal((9, 7)))
    slope = jnp.sum(jax.grad(leading_projector_trace)(A) * dA)
    h = 1e-6
    finite = (leading_projector_trace(A + h * dA) - leading_projector_trace(A - h * dA)) / (2 * h)
    assert np.isfinite(slope)
    np.testing.assert_allclose(slope, finite, rtol=1e-6)
    energy = jax.grad(lambda A: jnp.sum(svd(A).value[1] ** 2))(A)
    np.testing.assert_allclose(energy, 2 * A, atol=1e-12)
    identity = jax.jacobian(lambda A: svd(A, mode="reduced").value)(jnp.eye(3))
    assert all(bool(jnp.isfinite(part).all()) for part in identity)


@pytest.mark.covers("svd")
def test_jit_and_vmap(x64):
    stack = jnp.asarray(RNG.standard_normal((3, 7, 4)))
    traces = []

    @jax.jit
    def values(A):
        traces.append(1)
        return svd(A).value[1]

    batched = jax.vmap(lambda A: svd(A).value[1])(stack)
    for A, s in zip(stack, batched, strict=True):
        np.testing.assert_allclose(values(A), s, rtol=1e-12)
    assert len(traces) == 1
    with pytest.raises(InputError, match="compact"):
        jax.jit(lambda A: svd(A, mode="compact").value[1])(stack[0])


@pytest.mark.covers("eckart-young")
def test_no_rank_k_matrix_does_better_in_any_invariant_norm(x64):
    norms = {
        "spectral": lambda s: s[0],
        "frobenius": np.linalg.norm,
        "nuclear": np.sum,
        "ky fan 2": lambda s: np.sum(s[:2]),
        "schatten 3": lambda s: np.sum(s**3) ** (1 / 3),
    }
    A, k = RNG.standard_normal((8, 6)), 2
    best = eckart_young(A, k)
    s = np.linalg.svd(A, compute_uv=False)
    residual = np.linalg.svd(A - best.value.matrix, compute_uv=False)
    np.testing.assert_allclose(best.value.spectral_error, s[k], rtol=1e-12)
    np.testing.assert_allclose(best.value.frobenius_error, np.linalg.norm(s[k:]), rtol=1e-12)
    assert bool(best.holds)
    assert bool(best.value.unique)

    rivals = [RNG.standard_normal((8, k)) @ RNG.standard_normal((k, 6)) for _ in range(50)]
    left = RNG.standard_normal((8, k))
    for _ in range(200):  # alternating least squares: an optimised rival
        right = np.linalg.lstsq(left, A, rcond=None)[0]
        left = np.linalg.lstsq(right.T, A.T, rcond=None)[0].T
    rivals += [left @ right, best.value.matrix + 1e-3 * rivals[0] @ np.diag([1, 0, 0, 0, 0, 0])]
    for norm in norms.values():
        np.testing.assert_allclose(norm(residual[: 6 - k]), norm(s[k:]), rtol=1e-10)
        for B in rivals:
            if np.linalg.matrix_rank(B) <= k:
                assert norm(np.linalg.svd(A - B, compute_uv=False)) >= norm(s[k:]) * (1 - 1e-10)


@pytest.mark.covers("eckart-young")
@pytest.mark.parametrize(
    ("spectrum", "k", "unique"),
    [
        ([3, 2, 1], 1, True),
        ([3, 2, 2], 2, False),
        ([3, 2, 2], 1, True),
        ([3, 3, 1], 1, False),
        ([3, 0, 0], 2, True),  # a second zero changes nothing: A_k = A
        ([3, 2, 1], 0, True),
        ([3, 2, 1], 3, True),
        ([0, 0, 0], 1, True),
    ],
)
def test_uniqueness(dtype, spectrum, k, unique):
    A = with_spectrum(np.array(spectrum, float), 5, 4).astype(dtype)
    value = eckart_young(A, k).value
    assert bool(value.unique) is unique
    if spectrum == [3, 2, 2] and k == 2:  # another minimiser, as good in the Frobenius norm
        U, s, Vt = svd(A).value
        other = s[0] * np.outer(U[:, 0], Vt[0]) + 2 * np.outer(U[:, 1] + U[:, 2], Vt[1] + Vt[2]).astype(dtype) / 2
        assert np.linalg.norm(A - other) == pytest.approx(float(value.frobenius_error), rel=1e-5)
        assert np.linalg.norm(other - value.matrix) > 1


@pytest.mark.covers("eckart-young")
def test_the_spectral_norm_has_other_minimisers():
    A = np.diag([3.0, 2.0, 1.0])
    assert bool(eckart_young(A, 1).value.unique)
    other = np.diag([2.5, 0.0, 0.0])
    assert np.linalg.norm(A - other, 2) == pytest.approx(float(eckart_young(A, 1).value.spectral_error))


@pytest.mark.covers("matrix-norms")
def test_norms_given_by_jax(x64):
    A, B = jnp.asarray(TALL), jnp.asarray(TALL.T @ TALL)
    s = jnp.linalg.svd(A, compute_uv=False)
    for order, value in ((2, s[0]), ("fro", jnp.sqrt(jnp.sum(s**2))), ("nuc", jnp.sum(s))):
        np.testing.assert_allclose(jnp.linalg.norm(A, order), value, rtol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(A, "fro") ** 2, jnp.trace(A.T @ A), rtol=1e-12)
    U, _, Vt = svd(A).value
    np.testing.assert_allclose(jnp.sum(A * (U @ Vt)), jnp.sum(s), rtol=1e-12)  # the dual's maximiser
    root = jnp.sqrt(s)
    np.testing.assert_allclose((jnp.sum((U * root) ** 2) + jnp.sum((Vt.T * root) ** 2)) / 2, jnp.sum(s), rtol=1e-12)
    for order in (2, "fro", "nuc"):
        norm = lambda M, order=order: jnp.linalg.norm(M, order)  # noqa: E731
        assert norm(A @ B) <= norm(A) * norm(B)
    np.testing.assert_allclose(jax.grad(lambda A: jnp.sum(svd(A).value[1]))(A), U @ Vt, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mode": "thin"}, "mode: found 'thin'"),
        ({"mode": "truncated"}, "rank: found None"),
        ({"rank": 2, "mode": "full"}, "rank: found 2"),
        ({"rank": 5}, "rank: found 5"),
        ({"rank": 0}, "rank: found 0"),
        ({"solver": "magic"}, "solver: found 'magic'"),
        ({"solver": "krylov"}, "solver: found 'krylov'"),
        ({"rank": 1, "accuracy": 0.0}, "accuracy"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(InputError, match=match):
        svd(TALL, **settings)


@pytest.mark.parametrize(
    ("A", "match"),
    [
        (np.full((2, 2), np.nan), "A: found NaN"),
        (np.zeros((0, 2)), "A: found an empty"),
        (np.zeros(3), "A: found an array"),
    ],
)
def test_bad_matrices(A, match):
    for method in (svd, lambda A: eckart_young(A, 1)):
        with pytest.raises(InputError, match=match):
            method(A)
    with pytest.raises(InputError, match="expected a `rank`"):
        svd(scipy.sparse.csr_array((10**5, 10**5)))
