"""Kronecker, butterfly, Monarch, permutations, Woodbury, Laplacians, quadrature: each against its definition."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from jax.scipy.signal import fftconvolve
from jax.scipy.spatial.transform import Rotation
from sympy.combinatorics import Permutation as SympyPermutation

from corollary.core import InputError, Status, matmat
from corollary.linalg import (
    DFT,
    Butterfly,
    Circulant,
    KhatriRao,
    Kronecker,
    LowRankUpdate,
    Monarch,
    Permutation,
    Toeplitz,
    continuous_convolution,
    graph_laplacian,
    integral_operator,
    integral_transform,
    inverse_downdate,
    laplacian_spectrum,
    monarch_projection,
    quadrature,
    solve,
    sweep_cut,
    woodbury,
)


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# Kronecker and Khatri-Rao --------------------------------------------------------------------------------------------


@pytest.mark.covers("kronecker-operator")
def test_kronecker_is_numpys_and_the_vec_identity():
    A, G, H, X = normal(0, 3, 3), normal(1, 4, 4), normal(2, 2, 2), normal(3, 4, 3)
    np.testing.assert_allclose(Kronecker(A, G, H).as_matrix(), np.kron(A, np.kron(G, H)), atol=1e-14)
    vec = lambda M: M.reshape(-1, order="F")  # noqa: E731
    np.testing.assert_allclose(Kronecker(A, G).mv(vec(X)), vec(G @ X @ A.T), atol=1e-13)
    x = normal(4, 24)
    np.testing.assert_allclose(Kronecker(A, G, H).solve(np.kron(A, np.kron(G, H)) @ x), x, atol=1e-10)


@pytest.mark.covers("kronecker-operator")
def test_kronecker_spectrum_and_determinant():
    A, G = normal(0, 3, 3), normal(1, 4, 4)
    K, dense = Kronecker(A, G), np.kron(A, G)
    sort = lambda v: v[np.lexsort((v.imag.round(8), v.real.round(8)))]  # noqa: E731
    np.testing.assert_allclose(sort(K.eigenvalues()), sort(np.linalg.eigvals(dense)), atol=1e-10)
    np.testing.assert_allclose(K.slogdet(), np.linalg.slogdet(dense), rtol=1e-12)
    tagged = [lx.MatrixLinearOperator(jnp.asarray(M @ M.T), lx.positive_semidefinite_tag) for M in (A, G)]
    positive = Kronecker(*tagged, Circulant(jnp.asarray([2.0, 1.0])))
    assert lx.is_positive_semidefinite(Kronecker(*tagged))
    assert np.isrealobj(Kronecker(*tagged).eigenvalues())
    np.testing.assert_allclose(
        np.sort(positive.eigenvalues().real), np.linalg.eigvalsh(positive.as_matrix()), rtol=1e-4, atol=1e-4
    )


def test_kronecker_never_forms_the_product(x64):
    factors = [jnp.asarray(normal(i, 40, 40)) for i in range(4)]  # the dense matrix would have 6.5e12 entries
    vectors = [normal(9 + i, 40) for i in range(4)]
    chain = lambda parts: np.asarray(parts[0] if len(parts) == 1 else np.kron(parts[0], chain(parts[1:])))  # noqa: E731
    ours = Kronecker(*factors).mv(jnp.asarray(chain(vectors)))
    expected = chain([np.asarray(f) @ v for f, v in zip(factors, vectors, strict=True)])
    np.testing.assert_allclose(ours, expected, atol=1e-12 * np.abs(expected).max())


def test_khatri_rao_is_scipys_and_its_gram():
    A, B, C = normal(0, 3, 5), normal(1, 2, 5), normal(2, 4, 5)
    K = KhatriRao(A, B, C)
    dense = scipy.linalg.khatri_rao(scipy.linalg.khatri_rao(A, B), C)
    np.testing.assert_allclose(K.as_matrix(), dense, atol=1e-14)
    np.testing.assert_allclose(K.mv(np.ones(5)), dense @ np.ones(5), atol=1e-13)
    np.testing.assert_allclose(K.T.mv(np.arange(24.0)), dense.T @ np.arange(24.0), atol=1e-12)
    np.testing.assert_allclose(K.gram(), dense.T @ dense, atol=1e-12)


# Fourier, butterfly, Monarch -----------------------------------------------------------------------------------------


@pytest.mark.covers("fft")
def test_the_dft_matrix_is_unitary_only_with_its_scale(x64):
    n = 12
    for norm in ("ortho", "backward", "forward"):
        F = DFT(n, norm)
        dense = np.asarray(F.as_matrix())
        np.testing.assert_allclose(dense, np.fft.fft(np.eye(n), norm=norm), atol=1e-14)
        x = normal(0, n) + 1j * normal(1, n)
        np.testing.assert_allclose(F.mv(x), np.fft.fft(x, norm=norm), atol=1e-14)
        np.testing.assert_allclose(F.solve(F.mv(x)), x, atol=1e-14)
        np.testing.assert_allclose(lx.conj(F).mv(x), np.fft.fft(x.conj(), norm=norm).conj(), atol=1e-14)
        defect = np.abs(dense.conj().T @ dense - np.eye(n)).max()
        assert defect <= 1e-14 if norm == "ortho" else defect > 0.5
    x = normal(0, n)
    assert np.linalg.norm(DFT(n).mv(x)) == pytest.approx(np.linalg.norm(x), rel=1e-14)  # Parseval


@pytest.mark.covers("fft")
def test_products_of_transforms_are_circular_convolutions(x64):
    n = 9
    h, x = jnp.asarray(normal(0, n)), jnp.asarray(normal(1, n))
    circular = np.array([sum(h[(i - j) % n] * x[j] for j in range(n)) for i in range(n)])
    product = np.asarray(jnp.fft.ifft(jnp.fft.fft(h) * jnp.fft.fft(x)))
    np.testing.assert_allclose(product, circular, atol=1e-13)
    np.testing.assert_allclose(Circulant(h).mv(x), circular, atol=1e-13)
    linear = np.convolve(h, x)
    np.testing.assert_allclose(fftconvolve(h, x), linear, atol=1e-13)
    assert np.abs(product - linear[:n]).max() > 0.1  # without zero padding it is the circular one
    np.testing.assert_allclose(jnp.linalg.norm(jnp.fft.fft(x, norm="ortho")), jnp.linalg.norm(x), rtol=1e-14)


@pytest.mark.covers("butterfly-factorization")
@pytest.mark.parametrize("n", [2, 16])
def test_fft_and_hadamard_are_butterflies(n):
    F = Butterfly.dft(n)
    np.testing.assert_allclose(F.as_matrix(), np.fft.fft(np.eye(n)), atol=1e-14 * n)
    np.testing.assert_array_equal(Butterfly.hadamard(n).as_matrix(), scipy.linalg.hadamard(n))
    assert F.twiddles.size == 2 * n * (n.bit_length() - 1)  # 2 n log₂ n parameters
    np.testing.assert_allclose(F.slogdet()[1], n / 2 * np.log(n), rtol=1e-12)
    np.testing.assert_allclose(F.solve(np.arange(n) + 1j), np.fft.ifft(np.arange(n) + 1j), atol=1e-14 * n)


@pytest.mark.covers("butterfly-factorization")
def test_a_butterfly_is_the_product_of_its_factors():
    n, twiddles, image = 8, normal(0, 3, 4, 2, 2), np.random.default_rng(1).permutation(8)
    dense = np.asarray(Permutation(image).as_matrix())
    for level, blocks in enumerate(twiddles):
        s, factor = 2**level, np.zeros((n, n))
        stretches = n // (2 * s)
        for k, block in enumerate(blocks):
            i = 2 * s * (k % stretches) + k // stretches
            factor[np.ix_([i, i + s], [i, i + s])] = block
        dense = factor @ dense
    B = Butterfly(twiddles, image)
    np.testing.assert_allclose(B.as_matrix(), dense, atol=1e-13)
    np.testing.assert_allclose(B.slogdet(), np.linalg.slogdet(dense), rtol=1e-10)
    np.testing.assert_allclose(B.T.solve(dense.T @ np.ones(n)), 1, atol=1e-9)
    Q = Butterfly.orthogonal(8, jax.random.key(0)).as_matrix()
    np.testing.assert_allclose(Q @ Q.T, np.eye(8), atol=2e-6)


@pytest.mark.covers("butterfly-factorization")
def test_a_butterfly_layer_learns_a_transform(x64):
    target = jnp.asarray(scipy.linalg.hadamard(8) / 8**0.5)
    loss = lambda B: jnp.sum((B.as_matrix() - target) ** 2)  # noqa: E731
    B = Butterfly.orthogonal(8, jax.random.key(1))
    step = jax.jit(lambda B: jax.tree.map(lambda p, g: p - 0.05 * g, B, jax.grad(loss)(B)))
    first = float(loss(B))
    for _ in range(400):
        B = step(B)
    assert float(loss(B)) < 1e-3 * first


@pytest.mark.covers("monarch-matrix")
def test_monarch_is_its_definition():
    s, p, b, q = 2, 3, 4, 5
    L, R = normal(0, p, s, b), normal(1, b, p, q)
    right = scipy.linalg.block_diag(*R)  # x by stretches → (i, j)
    to_j = np.eye(b * p)[np.arange(b * p).reshape(b, p).T.reshape(-1)]  # (i, j) → (j, i)
    left = scipy.linalg.block_diag(*L)  # (j, i) → (j, a)
    to_a = np.eye(s * p)[np.arange(s * p).reshape(p, s).T.reshape(-1)]  # (j, a) → (a, j)
    np.testing.assert_allclose(Monarch(L, R).as_matrix(), to_a @ left @ to_j @ right, atol=1e-13)
    square = Monarch(normal(0, 3, 3, 3), normal(1, 3, 3, 3), np.random.default_rng(0).permutation(9))
    assert square.left.size + square.right.size == 2 * 9**1.5
    x = normal(2, 9)
    np.testing.assert_allclose(square.solve(square.mv(x)), x, atol=1e-10)
    np.testing.assert_allclose(square.T.solve(square.T.mv(x)), x, atol=1e-10)
    np.testing.assert_allclose(square.slogdet(), np.linalg.slogdet(square.as_matrix()), rtol=1e-9)
    with pytest.raises(InputError, match="square blocks"):
        Monarch(L, R).solve(np.ones(6))


@pytest.mark.covers("monarch-matrix")
def test_the_dft_is_a_monarch_matrix_with_a_permutation_only():
    for b, q in ((3, 4), (4, 4)):
        n, F = b * q, np.fft.fft(np.eye(b * q))
        M = Monarch.dft(b, q)
        np.testing.assert_allclose(M.as_matrix(), F, atol=1e-12)
        inner = M.permutation
        restored = monarch_projection(F[:, np.argsort(inner)], b, q)  # permuted, the blocks have rank one
        assert restored.stats["error"] <= 1e-12 * n
        assert monarch_projection(F, b, q).stats["error"] > 0.1 * n


@pytest.mark.covers("monarch-matrix")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_monarch_projection_is_optimal(dtype):
    A = normal(0, 12, 12, dtype=dtype)
    found = monarch_projection(A, 3, 4)
    assert bool(found.holds)
    best = 0.0
    for j, i in itertools.product(range(4), range(3)):
        block = A.reshape(3, 4, 3, 4)[:, j, i, :]
        best += np.sum(np.linalg.svd(block.astype(float), compute_uv=False)[1:] ** 2)
    error = np.linalg.norm(A - found.value.as_matrix())
    assert error == pytest.approx(np.sqrt(best), rel=float(100 * np.finfo(dtype).eps))
    rng = np.random.default_rng(1)
    for _ in range(20):  # no perturbation of the factors is better
        L, R = (f + 0.01 * rng.standard_normal(f.shape).astype(dtype) for f in (found.value.left, found.value.right))
        assert np.linalg.norm(A - Monarch(L, R).as_matrix()) >= error
    scaled = monarch_projection(A * dtype(1e-12), 3, 4)
    assert scaled.stats["error"] == pytest.approx(error * 1e-12, rel=1e-4)
    assert bool(scaled.holds)
    assert np.all(monarch_projection(np.zeros((4, 4), dtype), 2, 2).value.as_matrix() == 0)


# Permutations and rotations ------------------------------------------------------------------------------------------


@pytest.mark.covers("permutation-matrix")
def test_permutations_in_all_forms_against_sympy():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 8):
        for _ in range(5):
            s, t = rng.permutation(n), rng.permutation(n)
            P, Q, peer = Permutation(s), Permutation(t), SympyPermutation(s.tolist())
            dense = np.asarray(P.as_matrix())
            assert all(dense[s[j], j] == 1 for j in range(n))
            np.testing.assert_array_equal(dense @ dense.T, np.eye(n))
            assert int(P.sign()) == peer.signature() == round(np.linalg.det(dense))
            assert int((P @ Q).sign()) == int(P.sign()) * int(Q.sign())
            np.testing.assert_array_equal((P @ Q).as_matrix(), dense @ Q.as_matrix())  # Q first
            assert (SympyPermutation(t.tolist()) * peer).array_form == (
                P @ Q
            ).image.tolist()  # sympy's * goes left to right
            assert sorted(map(tuple, P.cycles())) == sorted(map(tuple, peer.cyclic_form))
            assert (peer**-1).array_form == P.inverse().image.tolist()
            top = rng.permutation(n)  # the top row in any order; the bottom alone would say something else
            for Other in (
                Permutation.from_cycles(P.cycles(), n),
                Permutation.from_matrix(dense),
                Permutation.from_two_line(top, s[top]),
                Permutation.from_two_line(*P.two_line()),
            ):
                assert Other.image.tolist() == s.tolist()


@pytest.mark.covers("permutation-matrix")
def test_permutations_act_on_rows_and_columns(x64):
    image, A = np.array([2, 0, 1]), normal(0, 3, 4)
    P = Permutation(image)
    moved = np.asarray(matmat(P, jnp.asarray(A)))
    np.testing.assert_array_equal(moved[image], A)  # row j went to σ(j)
    columns = A.T @ np.asarray(P.as_matrix()).T
    np.testing.assert_array_equal(columns[:, image], A.T)
    np.testing.assert_array_equal(P.solve(P.mv(A[:, 0])), A[:, 0])
    assert Permutation(jnp.asarray(image)).mv(jnp.ones(3, jnp.float32)).dtype == jnp.float32


@pytest.mark.covers("rotation-matrix")
def test_rotations_compose_and_are_special_orthogonal(x64):
    a, b = 0.7, -1.9
    plane = lambda t: np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])  # noqa: E731
    np.testing.assert_allclose(plane(a) @ plane(b), plane(a + b), atol=1e-15)
    turns = [np.asarray(Rotation.from_rotvec(jnp.asarray([0.0, 0.0, t])).as_matrix()) for t in (a, b, a + b)]
    np.testing.assert_allclose(turns[0] @ turns[1], turns[2], atol=1e-12)
    np.testing.assert_allclose(turns[0][:2, :2], plane(a), atol=1e-12)
    v = jnp.asarray([0.3, -1.0, 0.5])
    R = np.asarray(Rotation.from_rotvec(v).as_matrix())
    K, angle = np.cross(np.eye(3), np.asarray(v)), np.linalg.norm(v)
    rodrigues = np.eye(3) + np.sin(angle) / angle * K + (1 - np.cos(angle)) / angle**2 * K @ K
    np.testing.assert_allclose(R, rodrigues, atol=1e-12)
    np.testing.assert_allclose(R.T @ R, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) == pytest.approx(1, abs=1e-12)
    again = Rotation.from_quat(Rotation.from_rotvec(v).as_quat()).as_matrix()
    np.testing.assert_allclose(again, R, atol=1e-12)


# Low-rank updates ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("woodbury")
def test_woodbury_agrees_with_the_direct_solve(dtype):
    n, k = 20, 3
    A = normal(0, n, n, dtype=dtype) + 8 * np.eye(n, dtype=dtype)
    U, V, C = normal(1, n, k, dtype=dtype), normal(2, n, k, dtype=dtype), normal(3, k, k, dtype=dtype)
    C[:, 0] = 0  # a singular C is no obstacle
    b, eps = normal(4, n, 2, dtype=dtype), np.finfo(dtype).eps
    updated = A + U @ C @ V.T
    inverse = np.linalg.inv(A)
    x = np.linalg.solve(updated.astype(float), b)
    found = woodbury(inverse, b, U, V, C)
    tol = 100 * eps * (np.linalg.cond(updated) + np.linalg.cond(A)) * np.linalg.norm(x)
    assert found.value.dtype == dtype
    assert bool(found.holds)
    assert np.linalg.norm(found.value - x) <= tol
    solver = lambda v: jnp.linalg.solve(jnp.asarray(A), v)  # noqa: E731
    assert np.linalg.norm(np.asarray(woodbury(solver, jnp.asarray(b), U, V, C).value) - x) <= tol
    rank_one = woodbury(inverse, b[:, 0], U[:, 0], V[:, 0])  # Sherman-Morrison
    expected = np.linalg.solve(A + np.outer(U[:, 0], V[:, 0]), b[:, 0])
    assert np.linalg.norm(rank_one.value - expected) <= tol


@pytest.mark.covers("woodbury")
def test_woodbury_solves_k_by_k_only(x64):
    n, k = 500, 2
    U, b = jnp.asarray(normal(0, n, k)), jnp.asarray(normal(1, n))
    program = jax.make_jaxpr(lambda U, b: woodbury(lambda v: v / 3, b, U).value)(U, b)
    sizes = [
        v.aval.shape
        for e in all_equations(program.jaxpr)
        if "solve" in str(e.primitive) or "lu" in str(e.primitive)
        for v in e.invars
    ]
    assert sizes
    assert max(max(s, default=0) for s in sizes) <= k
    flops = jax.jit(lambda U, b: woodbury(lambda v: v / 3, b, U).value).lower(U, b).compile().cost_analysis()["flops"]
    assert flops <= 200 * n * k**2  # linear in n, where the direct solve has 2n³/3 = 8e7


def all_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", None)
            if inner is not None:
                yield from all_equations(getattr(inner, "jaxpr", inner))


@pytest.mark.covers("woodbury")
def test_the_guard_speaks_up():
    U = np.array([[1.0], [0.0], [0.0]])
    nearly = woodbury(np.eye(3), np.ones(3), U, -U * (1 - 1e-13), max_condition=10.0)
    assert nearly.status == Status.CONVERGED  # 1 × 1: perfectly conditioned, however small
    U = np.eye(3)[:, :2]
    nearly = woodbury(np.eye(3), np.ones(3), U, -U * np.array([1 - 1e-13, 0.0]))
    assert nearly.status == Status.PRECISION
    assert not bool(nearly.certificates["conditioning"].holds)
    exact = woodbury(np.eye(3), np.ones(3), U[:, :1], -U[:, :1])
    assert exact.status == Status.NON_FINITE or not bool(exact.holds)


@pytest.mark.covers("woodbury")
def test_refinement_repairs_an_update_that_cures_a_bad_matrix():
    n = 30  # A has condition 1e10, A + UVᵀ is well conditioned: plain Woodbury loses ten digits
    Q = np.linalg.qr(normal(0, n, n))[0]
    s = np.r_[1e-10, np.ones(n - 1)]
    A, u = (Q * s) @ Q.T, Q[:, :1]
    b = normal(1, n)
    plain = LowRankUpdate(A, u).solve(b)
    found = solve(LowRankUpdate(A, u), b)
    x = np.linalg.solve(A + u @ u.T, b)
    assert np.linalg.norm(plain - x) > 1e-12 * np.linalg.norm(x)
    assert np.linalg.norm(found.value - x) <= 1e-12 * np.linalg.norm(x)
    assert bool(found.holds)
    assert int(found.steps) >= 2


@pytest.mark.covers("woodbury")
def test_determinant_lemma():
    A, U, C = normal(0, 6, 6), normal(1, 6, 2), normal(2, 2, 2)
    update = LowRankUpdate(A, U, C=C)
    np.testing.assert_allclose(update.slogdet(), np.linalg.slogdet(A + U @ C @ U.T), rtol=1e-10)
    K = LowRankUpdate(Circulant(np.array([3.0, 1.0, 0.5])), np.ones(3))
    np.testing.assert_allclose(K.slogdet(), np.linalg.slogdet(K.as_matrix()), rtol=1e-12)


@pytest.mark.covers("woodbury")
@pytest.mark.parametrize("index", [0, 3, -1])
def test_downdate_equals_refactorisation(dtype, index):
    A = normal(0, 8, 8, dtype=dtype)
    keep = np.delete(np.arange(8), index)
    found = inverse_downdate(np.linalg.inv(A), index)
    expected = np.linalg.inv(A[np.ix_(keep, keep)].astype(float))
    condition = np.linalg.cond(A) * np.linalg.cond(A[np.ix_(keep, keep)])
    assert np.linalg.norm(found.value - expected) <= 50 * np.finfo(dtype).eps * condition * np.linalg.norm(expected)
    assert bool(found.holds)
    assert found.value.dtype == dtype


def test_downdate_to_a_singular_matrix_is_said_to_be_so():
    A = np.array([[0.0, 1.0], [1.0, 5.0]])  # without row and column 1: (0)
    found = inverse_downdate(np.linalg.inv(A), 1)
    assert found.status != Status.CONVERGED
    assert not bool(found.holds)
    assert np.all(np.isfinite(found.value))


# Laplacians ----------------------------------------------------------------------------------------------------------


def adjacency(graph, n):
    W = np.zeros((n, n))
    match graph:
        case "path":
            W[np.arange(n - 1), np.arange(1, n)] = 1
        case "cycle":
            W[np.arange(n), (np.arange(n) + 1) % n] = 1
        case "complete":
            W = np.triu(np.ones((n, n)), 1)
        case "star":
            W[0, 1:] = 1
    return np.maximum(W, W.T)


@pytest.mark.parametrize("graph", ["path", "cycle", "complete", "star"])
@pytest.mark.parametrize("n", [3, 8])
def test_known_spectra(graph, n):
    L = np.asarray(graph_laplacian(adjacency(graph, n)).as_matrix(), dtype=float)
    np.testing.assert_allclose(np.linalg.eigvalsh(L), laplacian_spectrum(graph, n), atol=1e-5)
    assert laplacian_spectrum(graph, n)[0] == 0


def test_the_grid_is_a_sum_of_paths():
    path = [np.asarray(graph_laplacian(adjacency("path", n)).as_matrix(), dtype=float) for n in (3, 4)]
    grid = np.kron(path[0], np.eye(4)) + np.kron(np.eye(3), path[1])
    np.testing.assert_allclose(np.linalg.eigvalsh(grid), laplacian_spectrum("grid", 3, 4), atol=1e-6)
    assert laplacian_spectrum("grid", 1).tolist() == laplacian_spectrum("star", 1).tolist() == [0.0]
    small = laplacian_spectrum("path", 10**6)[1]
    assert small == pytest.approx((np.pi / 1e6) ** 2, rel=1e-10)  # 2 − 2 cos θ would keep four digits


def test_normalised_laplacian_and_components(x64):
    W = scipy.sparse.block_diag([adjacency("path", 4), adjacency("complete", 3), [[0.0]]])
    L = np.asarray(graph_laplacian(W, normalised=True).as_matrix())
    values = np.linalg.eigvalsh(L)
    assert np.sum(np.abs(values) < 1e-12) == 3  # components, the lonely vertex included
    assert values.min() >= -1e-14
    assert values.max() == pytest.approx(2)  # a path is bipartite
    peer = scipy.sparse.csgraph.laplacian(W.tocsr(), normed=True).toarray()
    np.testing.assert_allclose(L[:7, :7], peer[:7, :7], atol=1e-15)
    loops = adjacency("path", 4) + 5 * np.eye(4)
    np.testing.assert_array_equal(
        graph_laplacian(loops).as_matrix(), graph_laplacian(loops - 5 * np.eye(4)).as_matrix()
    )


def conductances(W):
    degrees, n = W.sum(1), len(W)
    for bits in range(1, 2**n - 1):
        side = np.array([bits >> i & 1 for i in range(n)], dtype=bool)
        yield W[side][:, ~side].sum() / min(degrees[side].sum(), degrees[~side].sum())


def test_cheegers_inequality_and_the_sweep():
    rng = np.random.default_rng(0)
    for _ in range(10):
        W = np.triu(rng.random((8, 8)) * (rng.random((8, 8)) < 0.5), 1) + np.triu(np.ones((8, 8)), 1) * 0.01
        W = W + W.T
        root = np.sqrt(W.sum(1))
        values, vectors = np.linalg.eigh(np.eye(8) - W / np.outer(root, root))
        cut, best = sweep_cut(W, vectors[:, 1]), min(conductances(W))
        assert bool(cut.holds)
        assert values[1] / 2 <= best + 1e-12  # Cheeger's easy side
        assert best <= cut.stats["conductance"] + 1e-12 <= np.sqrt(2 * values[1]) + 1e-9
        side = cut.value
        assert cut.stats["conductance"] == pytest.approx(W[side][:, ~side].sum() / W.sum(1)[side].sum())
        anything = sweep_cut(W, rng.standard_normal(8))  # the guarantee needs no eigenvector
        assert bool(anything.holds)
        assert sweep_cut(W * 1e-12, vectors[:, 1] * 1e12).value.tolist() == cut.value.tolist()


# Integrals -----------------------------------------------------------------------------------------------------------


@pytest.mark.covers("integral-operator")
@pytest.mark.parametrize(("rule", "n", "degree"), [("gauss", 5, 9), ("clenshaw-curtis", 6, 5), ("trapezoid", 2, 1)])
def test_quadrature_is_exact_for_polynomials(rule, n, degree):
    nodes, weights = quadrature(rule, n, (-1.0, 2.0))
    for k in range(degree + 1):
        assert weights @ nodes**k == pytest.approx((2.0 ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1), rel=1e-12)
    k = degree + 1 + (rule == "clenshaw-curtis")
    assert abs(weights @ nodes**k - (2.0 ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1)) > 1e-4


@pytest.mark.covers("integral-operator")
def test_laplace_and_fourier_pairs(dtype):
    s = np.array([1.0, 2.0, 3.5], dtype=dtype)
    laplace = lambda s, t: jnp.exp(-s * t)  # noqa: E731
    tol = 2e-5 if dtype == np.float32 else 1e-10
    for f, F in ((lambda t: t**2, 2 / s**3), (jnp.sin, 1 / (s**2 + 1))):
        found = integral_transform(laplace, f, s, (0.0, np.inf), n=80)
        np.testing.assert_allclose(found.value, F, atol=tol, rtol=0)
        assert found.value.dtype == dtype
        claim = found.certificates["quadrature"]
        assert claim.kind == "estimate"
        assert np.abs(found.value - F).max() <= float(claim.measured) + tol
    if dtype == np.float32:
        return
    fourier = lambda u, t: jax.lax.complex(jnp.cos(2 * jnp.pi * u * t), -jnp.sin(2 * jnp.pi * u * t))  # noqa: E731
    gaussian = lambda t: jnp.exp(-jnp.pi * t**2)  # noqa: E731
    u = np.array([-1.0, 0.0, 0.6], dtype=dtype)
    found = integral_transform(fourier, gaussian, u, (-6.0, 6.0), rule="trapezoid", n=80)
    np.testing.assert_allclose(found.value, np.exp(-np.pi * u**2), atol=tol)  # self-dual
    a = 1.5
    found = integral_transform(fourier, lambda t: jnp.exp(-a * jnp.abs(t)), u, (-np.inf, np.inf), n=80)
    exact = 2 * a / (a**2 + 4 * np.pi**2 * u**2)
    assert np.abs(found.value - exact).max() <= float(found.certificates["quadrature"].measured)  # the kink is seen


@pytest.mark.covers("fft")
def test_the_gaussian_is_its_own_transform_on_a_grid(x64):
    n, L = 64, 8.0
    t, u = ((np.arange(n) - n // 2) * step for step in (L / n, 1 / L))
    samples = jnp.fft.fftshift(jnp.fft.fft(jnp.fft.ifftshift(np.exp(-np.pi * t**2)))) * (L / n)
    np.testing.assert_allclose(samples, np.exp(-np.pi * u**2), atol=1e-14)


@pytest.mark.covers("integral-operator")
def test_integral_operators_are_linear_and_solve_equations():
    rule = quadrature("gauss", 20, (0.0, 1.0))
    T = integral_operator(lambda u, v: jnp.exp(u * v), rule.nodes, rule)
    dense = np.exp(np.outer(rule.nodes, rule.nodes)) * rule.weights
    np.testing.assert_allclose(T.as_matrix(), dense, rtol=1e-14)
    f, g = np.sin(rule.nodes), rule.nodes**2
    assert np.allclose(dense @ (2 * f - g), 2 * dense @ f - dense @ g)
    # a Fredholm equation of the second kind, f − ∫ e^{uv} f(v) dv = g, with f = 1: ∫ e^{uv} dv = (e^u − 1)/u
    right = 1 - np.expm1(rule.nodes) / rule.nodes
    np.testing.assert_allclose(solve(np.eye(20) - dense, right).value, 1, atol=1e-12)


@pytest.mark.covers("integral-operator")
def test_continuous_convolution():
    step = 0.05
    grid = np.arange(-10, 10 + step / 2, step)
    gauss = lambda t, s: np.exp(-(t**2) / (2 * s**2)) / (s * np.sqrt(2 * np.pi))  # noqa: E731
    out = 2 * grid[0] + step * np.arange(2 * len(grid) - 1)
    found = continuous_convolution(gauss(grid, 0.6), gauss(grid, 0.8), step)
    np.testing.assert_allclose(found, gauss(out, 1.0), atol=1e-14)  # variances add
    half = np.where(np.abs(grid) < 1 - step / 2, 1.0, 0.0) + 0.5 * (np.abs(np.abs(grid) - 1) < step / 2)
    box = continuous_convolution(half, half, step)
    np.testing.assert_allclose(box, np.maximum(0, 2 - np.abs(out)), atol=step)  # box ∗ box: the triangle
    f, g, h = normal(0, 30), normal(1, 20), normal(2, 10)
    ours = lambda a, b: continuous_convolution(a, b, step)  # noqa: E731
    np.testing.assert_allclose(ours(f, g), step * np.convolve(f, g), atol=1e-14)
    np.testing.assert_allclose(ours(f, g), ours(g, f), atol=1e-14)
    np.testing.assert_allclose(ours(ours(f, g), h), ours(f, ours(g, h)), atol=1e-14)
    np.testing.assert_allclose(ours(np.r_[np.zeros(3), f], g)[3:], ours(f, g), atol=1e-14)  # a shift goes through
    np.testing.assert_allclose(ours(2 * f, g), 2 * ours(f, g), atol=1e-14)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (Kronecker, "factors: found none"),
        (lambda: Kronecker(np.ones(2)), r"factors\[0\]: found an array"),
        (lambda: Kronecker(np.ones((2, 3))).solve(np.ones(2)), r"factors\[0\]: found shape"),
        (lambda: KhatriRao(np.ones((2, 3)), np.ones((2, 2))), "factors: found"),
        (lambda: Butterfly(np.ones((2, 4, 2, 2))), "twiddles: found shape"),
        (lambda: Butterfly.dft(6), "n: found 6"),
        (lambda: Butterfly(np.ones((2, 2, 2, 2)), np.arange(3)), "permutation: found 3"),
        (lambda: Monarch(np.ones((2, 2, 2)), np.ones((3, 2, 2))), "right: found 3 blocks"),
        (lambda: monarch_projection(np.ones((4, 4)), 3, 2), "blocks, rows: found 3 and 2"),
        (lambda: Permutation(np.array([0, 0])), r"image: found \[0, 0\]"),
        (lambda: Permutation(np.array([0.0, 1.0])), "image: found float64"),
        (lambda: Permutation.from_cycles([(0, 1), (1, 2)], 3), "cycles: found"),
        (lambda: Permutation.from_matrix(np.ones((2, 2))), "matrix: found shape"),
        (lambda: Permutation.from_two_line([0, 1], [0, 1, 2]), "bottom: found 3"),
        (lambda: woodbury(np.eye(3), np.ones(2), np.ones(2)), "inverse: found shape"),
        (lambda: woodbury(np.eye(2), np.ones(2), np.ones(3)), "U, V: found shapes"),
        (lambda: woodbury(np.eye(2), np.ones(2), np.ones(2), C=np.ones((2, 2))), "U, V: found shapes"),
        (lambda: woodbury(np.eye(2), np.ones(2), np.ones(2), max_condition=0.5), "max_condition"),
        (lambda: LowRankUpdate(np.eye(2), np.ones((3, 1))), "U, V: found shapes"),
        (lambda: inverse_downdate(np.eye(2), 2), "index: found 2"),
        (lambda: inverse_downdate(np.eye(1), 0), "inverse: found shape"),
        (
            lambda: graph_laplacian(np.array([[0.0, 1.0], [0.0, 0.0]])),
            "adjacency: found a matrix that is not symmetric",
        ),
        (lambda: graph_laplacian(-np.ones((2, 2))), "adjacency: found negative"),
        (lambda: graph_laplacian(np.ones((2, 3))), "adjacency: found shape"),
        (lambda: laplacian_spectrum("torus", 3), "graph: found 'torus'"),
        (lambda: laplacian_spectrum("cycle", 2), "sizes: found 2"),
        (lambda: laplacian_spectrum("path", 2, 3), "sizes: found"),
        (lambda: sweep_cut(np.zeros((2, 2)), np.ones(2)), "adjacency: found no edges"),
        (lambda: sweep_cut(np.ones((2, 2)), np.ones(2)), "vector: found a multiple"),
        (lambda: quadrature("simpson", 3), "rule: found 'simpson'"),
        (lambda: quadrature("trapezoid", 3, (0.0, np.inf)), "interval: found"),
        (lambda: quadrature("gauss", 3, (1.0, 1.0)), "interval: found"),
        (lambda: integral_transform(lambda u, v: 1 / (0 * v), lambda v: v, np.ones(1), (0.0, 1.0)), "f: found NaN"),
        (lambda: integral_operator(lambda u, v: v, np.ones(2), quadrature("gauss", 3)), "kernel: returned"),
        (lambda: continuous_convolution(np.ones(2), np.ones(2), 0.0), "step: found 0.0"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(InputError, match=match):
        call()


@pytest.mark.slow
def test_kronecker_of_structures_is_solved_by_structure(x64):
    K = Kronecker(Toeplitz(jnp.asarray(0.5 ** np.arange(6))), jnp.asarray(normal(0, 4, 4)))
    x = normal(1, 24)
    found = solve(K, K.mv(jnp.asarray(x)))
    np.testing.assert_allclose(found.value, x, atol=1e-10)
    assert bool(found.holds)
