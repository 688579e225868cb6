"""A few eigenpairs of large operators: SciPy as oracle, multiple and clustered values, shifts, scales, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from corollary.core import Function, InputError, Sparse, Status
from corollary.linalg import eigs, eigsh
from corollary.linalg.eigen._chebyshev import designed
from corollary.linalg.eigen._eigsh import _none_missed
from corollary.linalg.eigen._sides import ROWS, THREADED, Host
from corollary.linalg.eigen._thick_restart import plan, run

N = 400
SPECTRA = {
    "harmonic": 1 / np.arange(1, N + 1),
    "multiple": np.r_[np.ones(3), np.full(2, 0.9), np.linspace(0.5, 0, N - 5)],
    "clustered": np.r_[1 + 1e-9 * np.arange(4), np.linspace(0.5, 0.1, N - 4)],
    "plus and minus": np.r_[1, -1, 0.5, -0.5, np.full(N - 4, 0.1)],
    "identity": np.ones(N),
    "one large": np.r_[1, np.full(N - 1, 1e-9)],
    "uniform": np.linspace(-1, 1.1, N),
    "zero": np.zeros(N),
}


def symmetric(values, dtype=np.float64):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    A = (Q * values) @ Q.T
    return ((A + A.T) / 2).astype(dtype)


def outermost(d, which, k=4):
    return d[np.argsort({"LA": -d, "SA": d, "LM": -np.abs(d)}[which], kind="stable")[:k]]


def graph(rows=3000, seed=0):
    """The normalised adjacency of a sparse random graph."""
    rng = np.random.default_rng(seed)
    i, j = rng.integers(0, rows, (2, 5 * rows))
    A = scipy.sparse.coo_array((np.ones(5 * rows), (i, j)), shape=(rows, rows)).tocsr()
    A = A + A.T
    w = 1 / np.sqrt(np.maximum(np.asarray(A.sum(axis=1)).ravel(), 1))
    return scipy.sparse.csr_array(scipy.sparse.diags_array(w) @ A @ scipy.sparse.diags_array(w))


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_copy_is_found_and_every_certificate_holds(dtype, name, which):
    d, eps = SPECTRA[name], np.finfo(dtype).eps
    A = symmetric(d, dtype)
    found = eigsh(A, 4, which=which)
    values, V = found.value
    assert bool(found.converged)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    atol = 4 * (eps ** (2 / 3) + 16 * eps) * np.abs(d).max()
    true = outermost(d, which)
    np.testing.assert_allclose(*((np.abs(values), np.abs(true)) if which == "LM" else (values, true)), atol=atol)
    assert np.linalg.norm(V.T @ V - np.eye(4)) <= 16 * eps * 4 * 20
    assert np.linalg.norm(A @ V - V * values, axis=0).max() <= atol
    assert values.dtype == V.dtype == dtype


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_agrees_with_scipy_on_a_graph(which):
    A = graph()
    found = eigsh(A, 10, which=which, tol=1e-9)
    theirs = scipy.sparse.linalg.eigsh(A, 10, which=which, tol=1e-12, v0=np.ones(A.shape[0]))[0]
    np.testing.assert_allclose(np.sort(found.value[0]), np.sort(theirs), atol=1e-9)
    assert bool(found.holds)
    assert found.certificates["none_missed"].confidence >= 0.999


def test_missed_copies_are_found_by_the_last_look():
    """A graph with seven components has the eigenvalue 0 seven times; one start vector alone sees it once."""
    part = graph(100, 1)
    A = scipy.sparse.eye_array(700) - scipy.sparse.block_diag([part] * 7)
    found = eigsh(A.tocsr(), 8, which="SA", tol=1e-9)
    true = np.linalg.eigvalsh(A.toarray())[:8]
    np.testing.assert_allclose(found.value[0], true, atol=1e-8)
    assert bool(found.holds)


def test_the_claim_that_none_was_missed_can_fail():
    A, rng = symmetric(SPECTRA["multiple"]), np.random.default_rng(0)
    sizes = plan(N, 2, False, True, True, 1, None)
    starts = (rng.standard_normal(shape) for shape in ((N, 1), (sizes.p, 1), (N, 1)))
    state = run(Host(lambda V: A @ V), sizes, N, A.dtype, *starts, 1e-9, 300)
    np.testing.assert_allclose(state.values, 1)
    assert bool(_none_missed(np, sizes, state, N, 1e-9).holds)
    # had the run ended with an inner pair, the last look would have come to 1
    wrong = state._replace(values=np.array([0.6, 0.5]), reach=np.array([1.0, -0.01, 300.0]))
    assert not bool(_none_missed(np, sizes, wrong, N, 1e-9).holds)
    assert "none_missed" not in eigsh(A, 4, complete=False).certificates


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_scaling_changes_the_scale_only(scale):
    A = symmetric(SPECTRA["uniform"])
    plain, scaled = eigsh(A, 4), eigsh(A * scale, 4)
    np.testing.assert_allclose(scaled.value[0], plain.value[0] * scale, rtol=1e-10)
    assert bool(scaled.holds)


def test_every_kind_of_input_gives_the_same(x64):
    A = symmetric(SPECTRA["uniform"])
    A *= np.abs(A) > 0.01
    B = jnp.asarray(A)
    reference = np.linalg.eigvalsh(A)[::-1][:4]
    for kind in (scipy.sparse.csc_array(A), jnp.asarray(A), Sparse(scipy.sparse.csr_array(A)),
                 Function(lambda x: B @ x, N)):  # fmt: skip
        found = eigsh(kind, 4, block=2)
        np.testing.assert_allclose(found.value[0], reference, atol=1e-9)
        assert bool(found.holds)
        assert isinstance(found.value[0], np.ndarray if scipy.sparse.issparse(kind) else jax.Array)


@pytest.mark.slow
def test_jit_equals_no_jit_and_compiles_once(x64):
    A = jnp.asarray(symmetric(SPECTRA["uniform"]))
    traces = []

    @jax.jit
    def values(A, key, tol):
        traces.append(1)
        found = eigsh(A, 3, tol=tol, key=key)
        return found.value[0], found.holds

    found, holds = values(A, jax.random.key(0), 1e-8)
    np.testing.assert_allclose(found, [1.1, 1.1 - 2.1 / 399, 1.1 - 4.2 / 399], atol=1e-9)
    assert bool(holds)
    values(2 * A, jax.random.key(1), 1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("sparse", [False, True])
def test_shift_and_invert(sparse):
    A = symmetric(SPECTRA["uniform"])
    A = scipy.sparse.csr_array(A) if sparse else A
    for sigma in (0.301, 0.3):  # the second is an eigenvalue: A − σI is singular to rounding
        found = eigsh(A, 4, sigma=sigma)
        true = np.sort(np.abs(SPECTRA["uniform"] - sigma))[:4]
        np.testing.assert_allclose(np.abs(found.value[0] - sigma), true, atol=1e-9)
    assert bool(found.holds)
    assert bool(found.converged)


def test_shift_of_an_operator_needs_its_inverse():
    d = jnp.asarray(np.linspace(1, 2, N), jnp.float32)
    op = Function(lambda x: d * x, N, dtype=jnp.float32)
    with pytest.raises(InputError, match="inverse"):
        eigsh(op, 2, sigma=0.0)
    found = eigsh(op, 2, sigma=0.0, inverse=lambda x: x / d)
    np.testing.assert_allclose(found.value[0], d[:2], atol=1e-4)


def test_a_small_or_a_zero_matrix():
    for n in (1, 2, 5):
        for A in (np.diag(np.arange(n) + 1.0), np.zeros((n, n))):
            found = eigsh(A, 1)
            assert found.value[0][0] == pytest.approx(np.diag(A).max())
            assert bool(found.holds)
            general = eigs(A, 1)
            assert general.value[0][0] == pytest.approx(np.diag(A).max())
            assert bool(general.holds)


def test_too_few_steps_are_reported():
    found = eigsh(symmetric(SPECTRA["uniform"]), 4, max_steps=1)
    assert found.status == Status.MAX_STEPS
    assert not bool(found.certificates["residual"].holds)


def test_the_filter_is_what_it_says(x64):
    f = designed(np, np.float64(-1), np.float64(0.5), np.float64(0.9), np.float64(0.7), np.float64(1e4), 30.0, 99)
    x = np.linspace(-1, 0.9, 200)
    t = np.polynomial.chebyshev.chebval((x - f.centre) / f.width, np.eye(int(f.degree) + 1)[-1]) / f.norm
    np.testing.assert_allclose(f.value(np, x), t, atol=1e-10)
    assert np.all(np.abs(f.value(np, x[x <= 0.5])) <= 1 / f.norm * (1 + 1e-12))
    outside = np.linspace(0.55, 0.9, 9)
    np.testing.assert_allclose(f.inverse(np, f.value(np, outside)), outside, rtol=1e-10)
    slopes = (f.value(np, outside + 1e-7) - f.value(np, outside - 1e-7)) / 2e-7
    assert np.all(f.conversion(np, f.value(np, outside)) >= 1 / slopes * (1 - 1e-5))


def test_threads_by_rows_equal_one_product():
    A = scipy.sparse.diags_array([np.arange(float(THREADED + 5)), np.ones(THREADED + 4)], offsets=[0, 1]).tocsr()
    assert ROWS < THREADED
    side = Host(lambda V: A @ V, A, -0.5)
    Y, Z = np.random.default_rng(0).standard_normal((2, A.shape[0], 2))
    expected = 3 * -0.5 * (A @ Y) + 2 * Y - Z
    np.testing.assert_allclose(side.product(Y), -0.5 * (A @ Y))
    np.testing.assert_allclose(side.recur(Y, Z, 3.0, 2.0), expected)
    side.close()


# Non-symmetric -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["LM", "LR", "SR", "LI"])
def test_eigs_agrees_with_numpy(dtype, which):
    A = np.random.default_rng(0).standard_normal((N, N)).astype(dtype) / 20
    A[:6, :6] += 3 * np.array(np.kron(np.diag([1, -1, 0.5]), [[1, 2], [-2, 1]]), dtype)
    found = eigs(A, 4, which=which)
    values, X = found.value
    true = np.linalg.eigvals(A.astype(np.float64))
    assert bool(found.converged)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    order = {"LM": -np.abs(true), "LR": -true.real, "SR": true.real, "LI": -np.abs(true.imag)}[which]
    tol = 200 * np.finfo(dtype).eps ** (2 / 3)
    assert np.abs(true[np.argsort(order)[: len(values)], None] - values).min(axis=1).max() <= tol
    assert np.abs(np.linalg.norm(A @ X - X * values, axis=0) - found.stats["residuals"]).max() <= tol
    # complex pairs are not torn
    assert all(np.abs(values - np.conj(v)).min() <= tol for v in values)


def test_eigs_of_a_non_normal_and_a_defective_matrix():
    grcar = np.triu(np.tril(np.ones((100, 100)), 3)) - np.eye(100, k=-1)
    found = eigs(grcar, 4)
    assert bool(found.holds)
    assert np.all(found.stats["conditions"] >= 1)
    jordan = scipy.sparse.block_diag([np.eye(4) * 2 + np.eye(4, k=1), np.diag(np.linspace(0, 1, 196))]).tocsr()
    found = eigs(jordan, 1, tol=1e-12)
    assert bool(found.certificates["residual"].holds)
    assert abs(found.value[0][0] - 2) <= 1e-2  # the fourth root of the residual: the residual alone would promise 1e-12
    assert found.stats["conditions"][0] >= 1e3


def test_eigs_shift_scale_sparse_and_operator():
    A = scipy.sparse.diags_array([np.linspace(1, 2, N), np.full(N - 1, 1e-3)], offsets=[0, 1]).tocsr()
    found = eigs(A, 3, sigma=1.5)
    np.testing.assert_allclose(
        np.sort(np.abs(found.value[0] - 1.5)), np.sort(np.abs(np.linspace(1, 2, N) - 1.5))[:3], atol=1e-6
    )
    big = np.random.default_rng(0).standard_normal((N, N))
    plain = eigs(big, 2).value[0]
    np.testing.assert_allclose(np.sort(eigs(big * 1e100, 2).value[0]), np.sort(plain) * 1e100, rtol=1e-6)
    np.testing.assert_allclose(np.sort(eigs(jnp.asarray(big, jnp.float32), 2).value[0]), np.sort(plain), rtol=1e-3)


@pytest.mark.parametrize("method", [eigsh, eigs])
@pytest.mark.parametrize(
    ("A", "settings", "match"),
    [
        (np.ones((2, 3)), {}, "square"),
        (np.array([[np.nan]]), {"k": 1}, "A: found NaN"),
        (np.zeros((3, 3), complex), {}, "A: found dtype complex"),
        (np.eye(3), {"k": 4}, "k: found 4"),
        (np.eye(3), {"k": 0}, "k: found 0"),
        (np.eye(3), {"k": 1, "which": "XX"}, "which: found 'XX'"),
        (np.eye(3), {"k": 1, "tol": 0.0}, "tol: found 0.0"),
        (np.eye(3), {"k": 1, "max_steps": 0}, "max_steps: found 0"),
        (np.eye(9), {"k": 3, "basis": 4}, "basis: found 4"),
    ],
)
def test_refusals(method, A, settings, match):
    with pytest.raises(InputError, match=match):
        method(A, **settings)


def test_eigs_is_not_traced():
    with pytest.raises(InputError, match="traced"):
        jax.jit(lambda A: eigs(A, 1).value)(jnp.eye(5))
