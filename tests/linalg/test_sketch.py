"""Sketches: the factors they are made of, the theorems by Monte Carlo, distances kept, products sampled."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.stats
from sklearn.random_projection import GaussianRandomProjection, johnson_lindenstrauss_min_dim

from corollary.core import InputError
from corollary.core.operator import matmat, rmatmat
from corollary.linalg import (
    SRHT,
    CountSketch,
    GaussianSketch,
    RademacherSketch,
    SparseSignSketch,
    chi2_concentration,
    embedding_dimension,
    gaussian_matrix_norm,
    jl_dimension,
    johnson_lindenstrauss,
    randomized_matmul,
    sketch_distortion,
    walsh_hadamard,
)

KEY = jax.random.key(0)
KINDS = {
    "gaussian": GaussianSketch,
    "rademacher": RademacherSketch,
    "sparse_sign": functools.partial(SparseSignSketch, nonzeros=4),
    "countsketch": CountSketch,
    "srht": SRHT,
    "dct": functools.partial(SRHT, transform="dct"),
}
kinds = pytest.mark.parametrize("kind", KINDS)
ROWS, COLUMNS = 16, 64
RNG = np.random.default_rng(0)


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def many(kind, rows=ROWS, columns=COLUMNS, count=2000):
    """Dense matrices of many draws, in float32."""
    make = KINDS[kind]
    return np.asarray(jax.jit(jax.vmap(lambda key: make(rows, columns, key=key).as_matrix()))(keys(count)), float)


@pytest.mark.covers("gaussian-sketch", "countsketch", "srht")
@kinds
def test_isotropic_and_length_variance(kind):
    """E SᵀS = I; E ‖Sx‖² = ‖x‖² with the variance that the theory has."""
    S = many(kind)
    gram = np.einsum("kij,kil->kjl", S[:, :, :8], S[:, :, :8])
    error = gram.std(axis=0) / math.sqrt(len(S))
    assert np.all(np.abs(gram.mean(axis=0) - np.eye(8)) <= 5 * error + 1e-5)
    x = RNG.standard_normal(COLUMNS)
    x /= np.linalg.norm(x)
    squares = np.sum((S @ x) ** 2, axis=1)
    fourth = {"gaussian": 0.0, "rademacher": np.sum(x**4)}.get(kind, np.sum(x**4))
    if kind in ("srht", "dct"):
        assert squares.var() <= 2 / ROWS * 1.3
        return
    variance = 2 * (1 - fourth) / ROWS
    spread = np.var((squares - 1) ** 2) ** 0.5 / math.sqrt(len(S))
    assert abs(np.mean((squares - 1) ** 2) - variance) <= 4 * spread
    assert variance <= 2 / ROWS


@pytest.mark.covers("gaussian-sketch")
@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_embeds_a_subspace_as_the_square_root_law_says(kind):
    n, rows = 8, 128
    S = many(kind, rows, COLUMNS, 300)
    U = np.linalg.qr(RNG.standard_normal((COLUMNS, n)))[0]
    sigma = np.linalg.svd(S @ U, compute_uv=False)
    law = math.sqrt(n / rows)
    assert abs(sigma[:, 0].mean() - 1 - law) < 0.35 * law  # edges are approached from within as n grows
    assert abs(1 - sigma[:, -1].mean() - law) < 0.35 * law
    eps = law + math.sqrt(2 * math.log(2 / 0.05) / rows)  # Davidson & Szarek at δ = 0.05
    assert np.mean(np.max(np.abs(sigma - 1), axis=1) > eps) <= 0.05


EPS, DELTA, POINTS = 0.9, 0.4, 3  # small promises, so that the sizes that keep them stay small


@functools.cache
def promised(kind):
    """Draws at the least size that is promised to embed a plane, or to keep the distances of `POINTS` points."""
    settings = {"sketch": kind, "length": COLUMNS, "nonzeros": 4}
    rows = max(embedding_dimension(2, 0.7, DELTA, **settings).rows, jl_dimension(POINTS, EPS, DELTA, **settings))
    return many(kind, min(rows, COLUMNS) if kind in ("srht", "dct") else rows, COLUMNS, 500)


@pytest.mark.covers("countsketch", "gaussian-sketch", "srht")
@kinds
def test_embedding_dimension_keeps_its_promise(kind):
    # a spiky subspace is the worst for hashing, where two columns may meet
    for U in (np.eye(COLUMNS)[:, :2], np.linalg.qr(RNG.standard_normal((COLUMNS, 2)))[0]):
        image = promised(kind) @ U
        sigma = np.linalg.svd(image, compute_uv=False)
        assert np.mean(np.max(np.abs(sigma - 1), axis=1) > 0.7) <= DELTA
        if kind in ("countsketch", "sparse_sign"):
            moment = np.sum((np.swapaxes(image, 1, 2) @ image - np.eye(2)) ** 2, axis=(1, 2))
            assert moment.mean() <= 6 / image.shape[1] * 1.1 + 4 * moment.std() / math.sqrt(500)


def test_too_few_rows_do_fail():
    """Outside the theorem: CountSketch with fewer than n² rows merges columns and loses directions."""
    sigma = np.linalg.svd(many("countsketch")[:, :, :ROWS], compute_uv=False)
    assert np.mean(sigma[:, -1] < 1e-6) > 0.9


def test_embedding_dimension_formulas():
    n, eps, delta = 30, 0.4, 0.01
    found = embedding_dimension(n, eps, delta)
    assert found.rows == math.ceil(((math.sqrt(n) + math.sqrt(2 * math.log(2 / delta))) / eps) ** 2)
    assert found.failure <= delta
    eta = 2 * eps - eps**2
    assert embedding_dimension(n, eps, delta, sketch="countsketch").rows == math.ceil((n**2 + n) / (eta**2 * delta))
    for kind in KINDS:
        plan = functools.partial(embedding_dimension, sketch=kind, length=2**20)
        rows = [plan(n, eps, delta).rows, plan(n, eps / 2, delta).rows, plan(2 * n, eps, delta / 2).rows]
        assert rows[0] < rows[1]
        assert rows[0] < rows[2]
    assert embedding_dimension(50, 0.1, 0.01, sketch="srht", length=60).rows == 64  # all rows: an isometry
    for bad, match in (
        ({"eps": 1.0}, "eps"),
        ({"delta": 0.0}, "delta"),
        ({"sketch": "fft"}, "sketch"),
        ({"sketch": "srht"}, "length"),
        ({"dimension": 0}, "dimension"),
    ):
        with pytest.raises(InputError, match=match):
            embedding_dimension(**({"dimension": 3, "eps": 0.5, "delta": 0.1} | bad))


@pytest.mark.covers("gaussian-sketch", "countsketch", "srht")
@kinds
def test_every_product_is_that_of_the_matrix(kind, dtype):
    """Dense, transposed, sparse, JAX, jit, vmap, and the lineax interface agree with the dense matrix."""
    S = KINDS[kind](ROWS, COLUMNS, key=keys(2000)[0])
    M = (many(kind)[0] if dtype == np.float32 else np.asarray(S.as_matrix())).astype(dtype)
    A = RNG.standard_normal((COLUMNS, 5)).astype(dtype)
    A[np.abs(A) < 0.3] = 0
    close = functools.partial(np.testing.assert_allclose, atol=200 * np.finfo(dtype).eps * np.linalg.norm(M, 2), rtol=0)
    for form in (A, np.asfortranarray(A), scipy.sparse.csr_array(A), scipy.sparse.csc_matrix(A)):
        product = S.apply(form)
        close(product, M @ A)
        assert isinstance(product, np.ndarray)
        assert product.dtype == dtype
    close(S.apply(A[:, 0]), M @ A[:, 0])
    close(S.apply_rows(A.T), A.T @ M.T)
    close(S.apply_rows(scipy.sparse.csr_array(A.T)), A.T @ M.T)
    close(S.apply(jnp.asarray(A)), M @ A)
    assert isinstance(S.apply(jnp.asarray(A)), jax.Array)
    assert isinstance(S.apply_rows(jnp.asarray(A.T)), jax.Array)
    if dtype == np.float32:
        close(jax.jit(matmat)(S, jnp.asarray(A)), M @ A)
        y = RNG.standard_normal((ROWS, ROWS)).astype(dtype)
        close(rmatmat(S, jnp.asarray(y)), M.T @ y)
    assert S.T.T is S
    np.testing.assert_array_equal(S.apply(A.astype(np.float64) * 2.0**300), S.apply(A.astype(np.float64)) * 2.0**300)


@pytest.mark.parametrize("kind", ["sparse_sign", "countsketch", "srht"])
def test_the_lineax_interface(kind):
    S = KINDS[kind](ROWS, COLUMNS, key=KEY)
    M = np.asarray(S.as_matrix())
    x, y = (jnp.asarray(RNG.standard_normal(n), jnp.float32) for n in (COLUMNS, ROWS))
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    close(S.mv(x), M @ x)
    close(S.T.mv(y), M.T @ y)
    close(S.T.as_matrix(), M.T)
    close(lx.materialise(S).matrix, M)
    assert not lx.is_symmetric(S)


@pytest.mark.parametrize("kind", ["gaussian", "srht"])
def test_products_in_several_blocks(kind):
    S, dtype = KINDS[kind](ROWS, 1100, key=KEY), np.float32
    M = np.asarray(S.as_matrix())
    A = RNG.standard_normal((1100, 5)).astype(dtype)
    close = functools.partial(np.testing.assert_allclose, atol=2e3 * np.finfo(dtype).eps, rtol=0)
    close(S.apply(A), M @ A)
    close(S.apply(scipy.sparse.csr_array(A)), M @ A)
    close(matmat(S, jnp.asarray(A)), M @ A)


@pytest.mark.parametrize("kind", ["gaussian", "sparse_sign", "srht"])
def test_gradient_and_vmap_over_keys(kind):
    A = jnp.asarray(RNG.standard_normal((COLUMNS, 2)), jnp.float32)
    loss = lambda A, key: jnp.sum(jnp.sin(KINDS[kind](ROWS, COLUMNS, key=key).apply(A)))  # noqa: E731
    traces = []

    @jax.jit
    def both(A, keys):
        traces.append(1)
        return jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))(A, keys)

    values, gradients = both(A, keys(3))
    both(2 * A, keys(3, seed=5))
    assert len(traces) == 1
    M = np.asarray(KINDS[kind](ROWS, COLUMNS, key=keys(3)[1]).as_matrix())
    np.testing.assert_allclose(values[1], np.sum(np.sin(M @ A)), atol=1e-4)
    np.testing.assert_allclose(gradients[1], M.T @ np.cos(M @ A), atol=1e-4)


@pytest.mark.covers("countsketch")
def test_sparse_sign_has_one_entry_in_every_block():
    S = np.asarray(SparseSignSketch(11, 200, nonzeros=3, key=KEY).as_matrix())
    cuts = [0, 3, 7, 11]
    for a, b in itertools.pairwise(cuts):
        assert np.all((np.abs(S[a:b]) > 0).sum(axis=0) == 1)
    np.testing.assert_allclose(np.abs(S[S != 0]), 1 / math.sqrt(3), rtol=1e-6)
    counts = (np.asarray(CountSketch(4, 4000, key=KEY).as_matrix()) != 0).sum(axis=1)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.covers("countsketch")
def test_large_products_in_threads_agree():
    A = RNG.standard_normal((30_000, 100))
    for form in (A, np.asfortranarray(A)):
        S = SparseSignSketch(500, 30_000, key=KEY)
        np.testing.assert_allclose(S.apply(form), S.matrix(np.float64) @ A, atol=1e-11)


@pytest.mark.covers("srht")
@pytest.mark.parametrize(("rows", "columns"), [(12, 50), (3, 1), (1500, 3000)])
def test_srht_is_the_product_of_its_factors(rows, columns):
    length = 1 << (columns - 1).bit_length()
    rows = min(rows, length)
    S = SRHT(rows, columns, key=KEY)
    A = RNG.standard_normal((columns, 3))
    signed = np.zeros((length, 3))
    signed[:columns] = np.asarray(S.signs)[:, None] * A
    mixed = scipy.linalg.hadamard(length) @ signed / math.sqrt(length)
    sample = np.asarray(S.sample)
    assert len(np.unique(sample)) == rows
    np.testing.assert_allclose(S.apply(A), math.sqrt(length / rows) * mixed[sample], atol=1e-12)


@pytest.mark.covers("srht")
@pytest.mark.parametrize("kind", ["srht", "dct"])
def test_srht_embeds_like_a_gaussian_and_isometrically_at_full_length(kind):
    n = 4
    U = np.linalg.qr(np.c_[np.eye(COLUMNS)[:, 3], RNG.standard_normal((COLUMNS, n - 1))])[0]
    # the first column is a spike, which plain sampling of rows would miss
    worst = [
        np.max(np.abs(np.linalg.svd(many(name) @ U, compute_uv=False) - 1), axis=1).mean()
        for name in (kind, "gaussian")
    ]
    assert worst[0] <= 1.1 * worst[1]
    S = KINDS[kind](COLUMNS, COLUMNS if kind == "dct" else 50, key=KEY)
    A = RNG.standard_normal((S.columns, 3))
    np.testing.assert_allclose(np.linalg.norm(S.apply(A), axis=0), np.linalg.norm(A, axis=0), rtol=1e-12)


@pytest.mark.covers("walsh-hadamard")
@pytest.mark.parametrize("n", [1, 2, 16, 32, 512])
def test_walsh_hadamard_is_scipys_matrix(n, dtype):
    x = RNG.standard_normal((n, 2)).astype(dtype)
    H = scipy.linalg.hadamard(n).astype(dtype)
    eps = np.finfo(dtype).eps
    found = walsh_hadamard(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, H @ x, atol=10 * eps * n)
    np.testing.assert_allclose(walsh_hadamard(found), n * x, atol=20 * eps * n * n)
    np.testing.assert_allclose(walsh_hadamard(x[:, 0]), found[:, 0], atol=10 * eps * n)
    unit = walsh_hadamard(x, orthonormal=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=0), np.linalg.norm(x, axis=0), rtol=20 * eps)
    np.testing.assert_allclose(walsh_hadamard(unit, orthonormal=True), x, atol=20 * eps * n)
    integers = np.arange(n) - n // 2
    np.testing.assert_array_equal(walsh_hadamard(integers), scipy.linalg.hadamard(n) @ integers)  # exact


@pytest.mark.covers("walsh-hadamard")
def test_walsh_hadamard_transforms():
    x = jnp.asarray(RNG.standard_normal(32), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(walsh_hadamard(x) ** 3))(x)
    H = scipy.linalg.hadamard(32)
    np.testing.assert_allclose(gradient, 3 * H @ (H @ np.asarray(x)) ** 2, rtol=1e-4, atol=1e-2)
    for bad in (np.zeros(12), np.zeros(0), np.float64(1.0)):
        with pytest.raises(InputError, match="power of two"):
            walsh_hadamard(bad)


@pytest.mark.covers("gaussian-sketch")
@kinds
def test_distortion_is_measured(kind, dtype):
    A = (RNG.standard_normal((COLUMNS, 3)) * 10.0 ** np.arange(3)).astype(dtype)
    A = np.concatenate([A, A[:, :2] @ np.ones((2, 1), dtype)], axis=1)  # rank 3 of 4
    S = KINDS[kind](ROWS, COLUMNS, key=keys(2000)[0])
    found = sketch_distortion(S, A)
    U = np.linalg.svd(A[:, :3], full_matrices=False)[0]
    sigma = np.linalg.svd(S.apply(U), compute_uv=False)
    assert found.stats["rank"] == 3
    tol = 1e3 * np.finfo(dtype).eps
    np.testing.assert_allclose(found.value, [sigma[-1], sigma[0]], atol=tol)
    assert found.certificates["embedding"].measured == pytest.approx(np.max(np.abs(sigma - 1)), abs=float(tol))
    assert bool(found.holds)
    scaled = sketch_distortion(S, A * dtype.type(2.0**40))
    np.testing.assert_allclose(scaled.value, found.value, rtol=tol)
    np.testing.assert_allclose(sketch_distortion(S, scipy.sparse.csr_array(A)).value, found.value, rtol=tol)


def test_distortion_at_the_edges():
    S = SparseSignSketch(ROWS, COLUMNS, nonzeros=4, key=KEY)
    assert tuple(sketch_distortion(S, np.zeros((COLUMNS, 2))).value) == (1, 1)
    lost = sketch_distortion(S, RNG.standard_normal((COLUMNS, ROWS + 1)))  # more directions than rows: some are lost
    assert lost.value[0] == 0
    assert lost.certificates["embedding"].measured >= 1
    traced = jax.jit(lambda A: sketch_distortion(S, A).value)(jnp.ones((COLUMNS, 3), jnp.float32))
    np.testing.assert_allclose(traced, sketch_distortion(S, np.ones((COLUMNS, 3), np.float32)).value, rtol=1e-4)


def test_an_unlucky_subspace_is_found_out():
    S = GaussianSketch(ROWS, COLUMNS, key=keys(2000)[0])
    unlucky = np.linalg.svd(many("gaussian")[0])[2][:1].T  # the direction that S stretches most
    found = sketch_distortion(S, unlucky, delta=0.5).certificates["embedding"]
    assert found.bound < 1
    assert not bool(found.holds)


# Johnson-Lindenstrauss and concentration ----------------------------------------------------------------------------


@pytest.mark.covers("jl-dimension")
def test_jl_dimension_inverts_its_formula():
    for m, eps, delta in itertools.product((2, 10, 10**6), (0.05, 0.3, 0.9), (0.5, 1e-6)):
        fails = lambda k, m=m, eps=eps: m * (m - 1) * math.exp(-k * eps**2 / 8)  # noqa: E731
        k = jl_dimension(m, eps, delta)
        assert fails(k) <= delta * (1 + 1e-9)
        assert k == 1 or fails(k - 1) > delta * (1 - 1e-9)
        exact = jl_dimension(m, eps, delta, exact=True)
        assert exact <= k
        assert scipy.stats.chi2.sf(exact * (1 + eps), exact) <= delta / (m * (m - 1) / 2)
    assert jl_dimension(1, 0.5, 0.1) == 1
    ratio = jl_dimension(1000, 0.1, 0.01) / johnson_lindenstrauss_min_dim(1000, eps=0.1)
    assert 1 < ratio < 6  # theirs: 4 log m/(ε²/2 − ε³/3), which promises only δ ~ 1/m or so of no stated size
    for kind in KINDS:
        assert jl_dimension(100, 0.4, 0.01, sketch=kind, length=2**30) >= 100


@pytest.mark.covers("johnson-lindenstrauss", "jl-dimension")
@kinds
def test_all_distances_are_kept_as_often_as_promised(kind):
    X = RNG.standard_normal((POINTS, COLUMNS))
    i, j = np.triu_indices(POINTS, 1)
    before = np.sum((X[i] - X[j]) ** 2, axis=1)
    after = np.sum(((X[i] - X[j]) @ np.swapaxes(promised(kind), 1, 2)) ** 2, axis=2)
    assert np.mean(np.max(np.abs(after / before - 1), axis=1) <= EPS) >= 1 - DELTA


@pytest.mark.covers("johnson-lindenstrauss")
@kinds
def test_projection_reports_its_worst_distortion(kind, dtype):
    X = (RNG.standard_normal((20, COLUMNS)) + 100).astype(dtype)  # far from the origin: a Gram matrix would cancel
    X[3] = X[5]
    found = johnson_lindenstrauss(X, ROWS, sketch=kind, key=KEY)
    Y = found.value
    assert Y.shape == (20, ROWS)
    assert Y.dtype == dtype
    i, j = np.triu_indices(20, 1)
    before = np.sum((X[i].astype(float) - X[j]) ** 2, axis=1)
    after = np.sum((Y[i].astype(float) - Y[j]) ** 2, axis=1)
    apart = before > 0
    worst = np.max(np.abs(after[apart] / before[apart] - 1))
    tol = 1e-10 if dtype == np.float64 else 1e-2  # Y itself has lost digits: 100·√d·eps beside distances of 10
    certificate = found.certificates["distortion"]
    assert certificate.measured == pytest.approx(worst, abs=tol)
    assert certificate.bound >= found.stats["eps"]
    assert bool(found.holds)
    assert found.stats["pairs"] == 190
    sparse = johnson_lindenstrauss(scipy.sparse.csr_array(X), ROWS, sketch=kind, key=KEY)
    np.testing.assert_allclose(sparse.value, Y, rtol=1e3 * np.finfo(dtype).eps, atol=1e3 * np.finfo(dtype).eps * 100)
    by_jax = johnson_lindenstrauss(jnp.asarray(X), ROWS, sketch=kind, key=KEY)
    np.testing.assert_allclose(by_jax.certificates["distortion"].measured, certificate.measured, atol=tol)


@pytest.mark.covers("johnson-lindenstrauss")
def test_gaussian_projection_has_scikit_learns_law():
    X = RNG.standard_normal((2, COLUMNS))
    ours = np.sum((many("gaussian")[:400] @ (X[0] - X[1])) ** 2, axis=1)
    theirs = [
        np.sum(np.diff(GaussianRandomProjection(ROWS, random_state=seed).fit_transform(X), axis=0) ** 2)
        for seed in range(400)
    ]
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.covers("johnson-lindenstrauss")
def test_projection_by_tolerance_sampling_and_refusals():
    X = RNG.standard_normal((30, COLUMNS))
    found = johnson_lindenstrauss(X, eps=0.6, delta=0.05, key=KEY)
    assert found.value.shape[1] == jl_dimension(30, 0.6, 0.05)
    assert found.stats["eps"] <= 0.6
    assert found.certificates["distortion"].measured <= 0.6
    many_points = RNG.standard_normal((1000, COLUMNS))
    part = johnson_lindenstrauss(many_points, ROWS, certify="sample", key=KEY)
    full = johnson_lindenstrauss(many_points, ROWS, certify="full", key=KEY)
    assert part.stats["pairs"] == 200_000
    assert 0 < part.certificates["distortion"].measured <= full.certificates["distortion"].measured * (1 + 1e-12)
    assert full.stats["eps"] > 1  # far too few coordinates: the certificate holds all the same, with an honest ε
    assert bool(full.holds)
    plain = johnson_lindenstrauss(X, ROWS, key=KEY)
    assert johnson_lindenstrauss(X, ROWS, certify="none", key=KEY).certificates == {}
    for shift in (1e-150, 1e150):
        scaled = johnson_lindenstrauss(X * shift, ROWS, key=KEY)
        np.testing.assert_allclose(scaled.value, plain.value * shift, rtol=1e-10)
        assert scaled.certificates["distortion"].measured == pytest.approx(
            plain.certificates["distortion"].measured, rel=1e-10
        )
    for points in (np.zeros((4, COLUMNS)), np.ones((1, COLUMNS)), np.ones((5, COLUMNS))):
        edge = johnson_lindenstrauss(points, ROWS, key=KEY)
        assert edge.certificates["distortion"].measured == 0
        assert bool(edge.holds)
    for bad, match in (
        ({}, "exactly one"),
        ({"k": 3, "eps": 0.5}, "exactly one"),
        ({"k": 0}, "k: found 0"),
        ({"eps": 2.0}, "eps"),
        ({"k": 3, "sketch": "fft"}, "sketch"),
        ({"k": 3, "certify": "all"}, "certify"),
    ):
        with pytest.raises(InputError, match=match):
            johnson_lindenstrauss(X, key=KEY, **bad)
    with pytest.raises(InputError, match="NaN"):
        johnson_lindenstrauss(scipy.sparse.csr_array([[np.nan]]), 1, key=KEY)


@pytest.mark.covers("chi2-concentration")
def test_chi2_tail_is_exact_and_below_the_bound(dtype):
    k, eps = np.meshgrid(np.r_[1:40, 100, 1000, 10_000], np.linspace(0.01, 0.99, 50))
    found = chi2_concentration(k.astype(dtype), eps.astype(dtype))
    exact = scipy.stats.chi2.sf(k * (1 + eps), k) + scipy.stats.chi2.cdf(k * (1 - eps), k)
    seen = exact > 1e-30
    np.testing.assert_allclose(found.value[seen], exact[seen], rtol=1e-9 if dtype == np.float64 else 2e-2)
    assert np.all(found.certificates["chi2"].holds)
    assert np.all(exact <= 2 * np.exp(-k * eps**2 / 8))


@pytest.mark.covers("chi2-concentration")
def test_chi2_bound_is_false_outside_its_range():
    k, eps = 5, 12.0
    assert scipy.stats.chi2.sf(k * (1 + eps), k) > 2 * math.exp(-k * eps**2 / 8)
    for bad in (12.0, 1.0, 0.0, np.array([0.5, 1.5])):
        with pytest.raises(InputError, match="eps"):
            chi2_concentration(k, bad)
    with pytest.raises(InputError, match="k: found 0"):
        chi2_concentration(0, 0.5)


@pytest.mark.covers("gaussian-matrix-norm")
@pytest.mark.parametrize(("m", "n"), [(1, 1), (30, 5)])
def test_norm_of_a_gaussian_matrix(m, n):
    found = gaussian_matrix_norm(m, n, 2.0, 0.5, samples=500, key=KEY)
    assert found.value == pytest.approx(2 * (math.sqrt(m) + math.sqrt(n)))
    assert found.stats["tail"] == pytest.approx(math.exp(-0.125))
    assert bool(found.holds)
    draws = RNG.standard_normal((4000, m, n)) * 2
    norms = np.linalg.norm(draws, 2, axis=(1, 2))
    assert norms.mean() <= found.value
    assert norms.mean() >= 0.35 * found.value  # the bound is not idle: it is sharp as m and n grow
    for t in (0.2, 0.5, 1.0):
        assert np.mean(norms > 2 * (math.sqrt(m) + math.sqrt(n) + t)) <= math.exp(-(t**2) / 2)


@pytest.mark.covers("gaussian-matrix-norm")
def test_norm_bound_scales_and_refuses():
    assert gaussian_matrix_norm(9, 4, 1e-12).value == pytest.approx(5e-12)
    assert gaussian_matrix_norm(9, 4, 0.0).value == 0
    for bad, match in (({"m": 0}, "m"), ({"sigma": -1.0}, "sigma"), ({"samples": 3}, "samples, key")):
        with pytest.raises(InputError, match=match):
            gaussian_matrix_norm(**({"m": 3, "n": 2} | bad))


# Sampled products ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("randomized-matmul")
def test_matmul_is_unbiased_by_enumeration():
    """One sample: the value for every index, weighted by its chance, adds up to the product."""
    A, B = RNG.standard_normal((3, 5)) * [1, 2, 3, 0.1, 0], RNG.standard_normal((5, 4))
    weights = np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=1)
    p = weights / weights.sum()
    outer = {k: np.outer(A[:, k], B[k]) for k in range(4)}
    seen = np.zeros(4)
    for key in keys(300):
        C = randomized_matmul(A, B, 1, certify="none", key=key).value
        k = next(k for k in range(4) if np.allclose(C, outer[k] / p[k]))
        seen[k] += 1
    assert sum(p[k] * outer[k] / p[k] for k in range(4)) == pytest.approx(A @ B)
    assert scipy.stats.chisquare(seen, 300 * p[:4]).pvalue > 1e-4  # and drawn with these chances


@pytest.mark.covers("randomized-matmul")
def test_matmul_has_the_variance_that_it_states(x64):
    A, B = RNG.standard_normal((6, 40)) * np.linspace(0.1, 2, 40), RNG.standard_normal((40, 5))
    samples, count = 7, 3000

    @jax.jit
    def errors(A, B, keys):
        one = lambda key: randomized_matmul(A, B, samples, key=key)  # noqa: E731
        found = jax.vmap(one)(keys)
        square = jnp.sum((found.value - A @ B) ** 2, axis=(1, 2))
        return square, found.certificates["frobenius_error"].measured ** 2

    square, probed = map(np.asarray, errors(jnp.asarray(A), jnp.asarray(B), keys(count)))
    found = randomized_matmul(A, B, samples, certify="full", key=KEY)
    weights = np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=1)
    exact = (weights.sum() ** 2 - np.linalg.norm(A @ B) ** 2) / samples
    uniform = (40 * np.sum(weights**2) - np.linalg.norm(A @ B) ** 2) / samples
    assert found.stats["variance"] == pytest.approx(exact)
    assert found.stats["uniform_variance"] == pytest.approx(uniform)
    assert exact < uniform
    assert abs(square.mean() - exact) <= 4 * square.std() / math.sqrt(count)
    assert abs(probed.mean() - exact) <= 4 * probed.std() / math.sqrt(count)
    assert np.mean(square > exact / 0.1) <= 0.1


@pytest.mark.covers("randomized-matmul")
@pytest.mark.parametrize("certify", ["probes", "full", "none"])
def test_matmul_of_every_kind_of_input(certify, dtype):
    A, B = (RNG.standard_normal(shape).astype(dtype) for shape in ((4, 30), (30, 3)))
    A[np.abs(A) < 0.5] = 0
    reference = randomized_matmul(A, B, 12, certify=certify, key=KEY)
    tol = 50 * np.finfo(dtype).eps * np.linalg.norm(A) * np.linalg.norm(B)
    assert reference.value.dtype == dtype
    assert bool(reference.holds)
    for left, right in (
        (scipy.sparse.csr_array(A), B),
        (A, scipy.sparse.coo_array(B)),
        (scipy.sparse.csc_array(A), scipy.sparse.csr_array(B)),
        (jnp.asarray(A), jnp.asarray(B)),
    ):
        found = randomized_matmul(left, right, 12, certify=certify, key=KEY)
        np.testing.assert_allclose(found.value, reference.value, atol=tol)
        for name, certificate in found.certificates.items():
            np.testing.assert_allclose(certificate.measured, reference.certificates[name].measured, atol=tol)
    if dtype == np.float64:
        for scale in (1e-150, 1e140):
            scaled = randomized_matmul(A * scale, B, 12, certify=certify, key=KEY)
            np.testing.assert_allclose(scaled.value, reference.value * scale, rtol=1e-10)
            assert bool(scaled.holds)


@pytest.mark.covers("randomized-matmul")
def test_matmul_at_the_edges():
    zero = randomized_matmul(np.zeros((2, 30)), np.ones((30, 2)), 12, certify="full", key=KEY)
    assert np.all(zero.value == 0)
    assert bool(zero.holds)
    one = randomized_matmul(np.full((1, 1), 3.0), np.full((1, 1), -2.0), 5, certify="full", key=KEY)
    assert one.value[0, 0] == pytest.approx(-6.0)
    assert bool(one.holds)
    A = jnp.asarray(RNG.standard_normal((3, 30)), jnp.float32)
    gradient = jax.grad(lambda A: jnp.sum(randomized_matmul(A, A.T, 12, certify="none", key=KEY).value))(A)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    for bad, match in (
        ({"B": np.zeros((2, 2))}, "B: found 2 rows"),
        ({"samples": 0}, "samples"),
        ({"delta": 0.0}, "delta"),
        ({"A": np.full((2, 3), np.nan)}, "A: found NaN"),
    ):
        with pytest.raises(InputError, match=match):
            randomized_matmul(**({"A": np.ones((2, 3)), "B": np.ones((3, 2)), "samples": 3, "key": KEY} | bad))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: GaussianSketch(0, 3, key=KEY), "rows"),
        (lambda: RademacherSketch(2, 0, key=KEY), "columns"),
        (lambda: GaussianSketch(2, 3, key=KEY, dtype=int), "dtype"),
        (lambda: SparseSignSketch(4, 9, nonzeros=5, key=KEY), "nonzeros: found 5"),
        (lambda: SparseSignSketch(4, 9, nonzeros=0, key=KEY), "nonzeros"),
        (lambda: SRHT(17, 10, key=KEY), "rows: found 17"),
        (lambda: SRHT(2, 10, transform="fft", key=KEY), "transform"),
        (lambda: CountSketch(4, 9, key=KEY).apply(np.ones((8, 2))), "A: found 8 rows"),
        (lambda: CountSketch(4, 9, key=KEY).apply_rows(np.ones((9, 2))), "X: found shape"),
        (lambda: CountSketch(4, 9, key=KEY).apply(np.ones((9, 2), complex)), "A: found shape"),
    ],
)
def test_bad_input(build, match):
    with pytest.raises(InputError, match=match):
        build()
