"""Diagnostics of spectra: definiteness, multiplicities, transient growth, low precision, the readable QR algorithm."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import sympy

from corollary.core import FORMATS, InputError
from corollary.linalg import definiteness, diagonalizability, low_precision_spectrum, qr_algorithm, spectral_radius

RNG = np.random.default_rng(0)
HILBERT = 1.0 / (np.arange(12)[:, None] + np.arange(12) + 1)
GRCAR = -np.eye(12, k=-1) + sum(np.eye(12, k=k) for k in range(4))


def eps(dtype):
    return float(np.finfo(dtype).eps)


def orthogonal(n, rng=RNG):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def matched(a, b):
    """The largest distance when two spectra are paired off as well as can be."""
    distance = np.abs(np.asarray(a)[:, None] - np.asarray(b)[None, :])
    return distance[scipy.optimize.linear_sum_assignment(distance)].max()


# Definiteness --------------------------------------------------------------------------------------------------------

METHODS = ("eigenvalues", "cholesky", "minors")


@pytest.mark.covers("definiteness")
def test_the_methods_agree_on_every_inertia(dtype):
    n = 4
    for positive in range(n + 1):
        for negative in range(n + 1 - positive):
            for _ in range(3):
                sizes = RNG.uniform(0.3, 2, positive), -RNG.uniform(0.3, 2, negative), np.zeros(n - positive - negative)
                Q = orthogonal(n)
                A = (Q * np.concatenate(sizes)) @ Q.T
                sign = "positive" if positive else "negative"
                whole = "definite" if positive + negative == n else "semidefinite"
                kind = "indefinite" if positive and negative else f"{sign} {whole}" if positive + negative else "zero"
                for method in METHODS if dtype == np.float64 else METHODS[:2]:
                    found = definiteness(((A + A.T) / 2).astype(dtype), method=method)
                    assert found.kind == kind, method
                    assert bool(found.certificates["witness"].holds)
                    assert bool(found.positive_semidefinite) == (negative == 0)
                    assert bool(found.negative_semidefinite) == (positive == 0)
                    if negative:
                        assert found.low @ A @ found.low < 0  # the witness is one
                    if positive:
                        assert found.high @ A @ found.high > 0


@pytest.mark.covers("definiteness")
@pytest.mark.parametrize("method", METHODS)
def test_leading_minors_do_not_decide_semidefiniteness(method):
    pad = np.zeros((4, 4))
    pad[1, 1] = -1.0  # diag(0, −1, 0, 0): leading minors 0, 0, 0, 0
    assert definiteness(pad, method=method).kind == "negative semidefinite"
    swap = np.zeros((4, 4))
    swap[0, 1] = swap[1, 0] = 1e-3  # no diagonal entry is negative
    swap[2, 2] = 1.0
    found = definiteness(swap, method=method)
    assert found.kind == "indefinite"
    assert found.lowest < 0 < found.highest
    for scale in (1e-200, 1e200):
        assert definiteness(swap * scale, method=method).kind == "indefinite"
    assert definiteness(HILBERT[:4, :4], method=method).kind == "positive definite"


def test_a_false_witness_would_be_seen():
    found = definiteness(np.diag([1.0, 1.0, 1.0, -1.0]))
    certificate = found.certificates["witness"]
    assert certificate.bound < 1e-13
    assert found.lowest == pytest.approx(-1)
    assert definiteness(np.eye(4) + np.ones((4, 4)) - 2 * np.eye(4)).kind == "indefinite"


# Multiplicities ------------------------------------------------------------------------------------------------------


def jordan(*blocks):
    return scipy.linalg.block_diag(*(value * np.eye(m) + np.eye(m, k=1) for value, m in blocks))


@pytest.mark.covers("eigenvector-conditioning")
def test_a_jordan_block_has_one_eigenvector(dtype):
    S = RNG.standard_normal((3, 3)) + 2 * np.eye(3)
    for A in (jordan((2.0, 3)), S @ jordan((2.0, 3)) @ np.linalg.inv(S)):
        found = diagonalizability(A.astype(dtype))
        assert (found.algebraic.tolist(), found.geometric.tolist()) == ([3], [1])
        assert not bool(found.diagonalizable)
        assert found.P is None
        assert found.condition == np.inf
        # the mean is accurate though the single eigenvalues are spread by eps^(1/3)
        assert found.eigenvalues[0] == pytest.approx(2, abs=200 * eps(dtype) * np.linalg.cond(S))
        assert found.radius[0] <= 20 * (np.linalg.cond(S) * eps(dtype)) ** (1 / 3)
        assert found.eigenvalues.dtype == dtype


def integer_case(seed):
    """A matrix S J S⁻¹ with integer entries, and the blocks of J."""
    rng = np.random.default_rng(seed)
    n, blocks = int(rng.integers(2, 6)), []
    while n:
        m = int(rng.integers(1, min(3, n) + 1))
        blocks.append((int(rng.integers(-2, 3)), m))
        n -= m
    J = sympy.Matrix(jordan(*blocks).astype(int))
    n = J.shape[0]
    lower = sympy.Matrix(n, n, lambda i, j: int(i == j) if i <= j else int(rng.integers(-1, 2)))
    upper = sympy.Matrix(n, n, lambda i, j: int(i == j) if i >= j else int(rng.integers(-1, 2)))
    S = lower * upper
    return S * J * S.inv()


@pytest.mark.covers("eigenvector-conditioning")
@pytest.mark.parametrize("seed", range(25))
def test_multiplicities_agree_with_sympy(seed):
    A = integer_case(seed)
    exact = {int(value): (m, len(vectors)) for value, m, vectors in A.eigenvects()}
    found = diagonalizability(np.array(A.tolist(), dtype=float))
    assert not np.iscomplexobj(found.eigenvalues)
    ours = {
        round(float(v)): (int(a), int(g))
        for v, a, g in zip(found.eigenvalues, found.algebraic, found.geometric, strict=True)
    }
    assert ours == exact
    assert found.algebraic.sum() == A.shape[0]
    assert np.all(found.geometric <= found.algebraic)
    assert bool(found.diagonalizable) == A.is_diagonalizable()
    assert bool(found.certificates["clusters"].holds)
    if found.P is not None:
        assert bool(found.certificates["eigendecomposition"].holds)
        M = np.array(A.tolist(), dtype=float)
        np.testing.assert_allclose(found.P @ found.D @ np.linalg.inv(found.P), M, atol=1e-10 * float(found.condition))


@pytest.mark.covers("eigenvector-conditioning")
def test_normal_matrices_have_unitary_eigenvectors(dtype):
    symmetric = RNG.standard_normal((8, 8))
    skew = symmetric - symmetric.T
    cases = {
        "symmetric": (symmetric + symmetric.T, True),
        "orthogonal": (orthogonal(8), False),  # normal: unitary, in general complex
        "permutation": (np.roll(np.eye(6), 1, axis=0), False),
        "skew": (skew, False),
        "projection": (np.ones((5, 5)), True),
    }
    for name, (A, real) in cases.items():
        found = diagonalizability(A.astype(dtype))
        assert bool(found.diagonalizable), name
        n = len(A)
        assert np.linalg.norm(found.P.conj().T @ found.P - np.eye(n)) <= 50 * n * eps(dtype)
        assert found.condition == pytest.approx(1, abs=50 * n * eps(dtype))
        assert np.iscomplexobj(found.P) != real
        assert all(bool(c.holds) for c in found.certificates.values())
    assert found.algebraic.tolist() == [4, 1]  # the projection's


@pytest.mark.covers("eigenvector-conditioning")
def test_perturbed_eigenvalues_are_within_bauer_and_fike(dtype):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        A = (rng.standard_normal((8, 8)) * 3.0 ** -np.arange(8)).astype(dtype)
        E = (1e-3 * rng.standard_normal((8, 8))).astype(dtype)
        found = diagonalizability(A, perturbation=E)
        claim = found.certificates["bauer_fike"]
        assert bool(claim.holds), claim.explain()
        assert claim.bound <= 1.5 * found.bauer_fike(np.linalg.norm(E, 2))
    # outside the theorem: a defective matrix moves by the root of the perturbation
    E = np.zeros((3, 3))
    E[2, 0] = 1e-9
    broken = diagonalizability(jordan((0.0, 3)), perturbation=E).certificates["bauer_fike"]
    assert broken.measured == pytest.approx(1e-3, rel=1e-6)
    assert not bool(broken.applies)


@pytest.mark.covers("eigenvector-conditioning")
def test_close_is_not_multiple_unless_rounding_makes_it_so():
    close = diagonalizability(np.array([[1.0, 1.0], [0.0, 1.0 + 1e-6]]))
    assert close.algebraic.tolist() == [1, 1]
    assert close.condition == pytest.approx(2e6, rel=1e-3)
    # a perturbation of 2.5e-19, far below rounding at this norm, makes this one defective
    assert diagonalizability(np.array([[1.0, 1e6], [0.0, 1.0 + 1e-6]])).algebraic.tolist() == [2]
    assert diagonalizability(np.diag([1.0, 1.0 + 1e-10, 2.0])).algebraic.tolist() == [1, 1, 1]
    assert diagonalizability(np.array([[1.0, 1.0], [0.0, 1.0 + 1e-6]], np.float32)).algebraic.tolist() == [2]
    ring = scipy.linalg.block_diag(np.roll(np.eye(8), 1, axis=0), 0.0)  # one mean for all, yet nothing is multiple
    assert len(diagonalizability(ring).eigenvalues) == 9
    for A in (np.zeros((3, 3)), np.eye(3), np.array([[5.0]])):
        found = diagonalizability(A)
        assert bool(found.diagonalizable)
        assert found.geometric.tolist() == [len(A)]
    A = RNG.standard_normal((6, 6))
    for scale in (1e-150, 1e150):
        scaled = diagonalizability(A * scale)
        np.testing.assert_allclose(scaled.eigenvalues / scale, diagonalizability(A).eigenvalues, rtol=1e-10)
        assert all(bool(c.holds) for c in scaled.certificates.values())


# Transient growth ----------------------------------------------------------------------------------------------------


@functools.cache
def growth(name):
    return spectral_radius(GROWTH[name])


def grid(A):
    """(|z| − 1)‖(z − A)⁻¹‖ over a fine polar grid: a naive twin."""
    heights, angles = np.logspace(-3, 1.5, 80), np.linspace(0, np.pi, 60)
    z = ((1 + heights)[:, None] * np.exp(1j * angles)).reshape(-1)
    smallest = np.linalg.svd(z[:, None, None] * np.eye(len(A)) - A, compute_uv=False)[:, -1]
    return ((np.abs(z) - 1) / smallest).max()


GROWTH = {
    "peak": np.array([[0.9, 100.0], [0.0, 0.9]]),
    "slow": np.array([[0.99, 10.0], [0.0, 0.5]]),
    "rotation": 0.9 * np.array([[0.0, -1.0], [1.0, 0.0]]),
    "circle": np.array([[0.0, -1.0], [1.0, 0.0]]),
    "zero": np.zeros((2, 2)),
    "nilpotent": np.array([[0.0, 50.0], [0.0, 0.0]]),
}


@pytest.mark.covers("spectral-radius")
@pytest.mark.parametrize("name", GROWTH)
def test_kreiss_brackets_the_transient_peak(name):
    A, found = GROWTH[name], growth(name)
    assert all(bool(c.holds) for c in found.certificates.values()), {
        n: c.explain() for n, c in found.certificates.items()
    }
    assert found.radius == pytest.approx(np.abs(np.linalg.eigvals(A)).max())
    norms = [np.linalg.norm(np.linalg.matrix_power(A, k), 2) for k in range(101)]
    np.testing.assert_allclose(found.power_norms, norms, rtol=1e-10, atol=1e-300)
    assert found.peak == pytest.approx(max(norms))
    assert found.kreiss <= max(norms) * (1 + 1e-10) + 1e-10
    assert max(norms) <= np.e * 2 * found.kreiss
    assert found.kreiss >= grid(A) * 0.999  # at least as good as a fine grid
    z = found.kreiss_point
    at = (abs(z) - 1) * np.linalg.norm(np.linalg.inv(z * np.eye(2) - A), 2)
    assert found.kreiss <= max(at, 1) * (1 + 1e-9)  # a lower estimate


@pytest.mark.covers("spectral-radius")
def test_the_textbook_peak_and_gelfand_limit():
    found = growth("peak")
    assert found.radius == pytest.approx(0.9)
    assert found.peak > 300  # far above 1 though ρ < 1
    A = GROWTH["peak"]
    k = np.array([1, 10, 100, 1000, 10000])
    B = A / 100
    roots = []
    for power in k:  # ‖A^k‖^{1/k} → ρ from above
        P, log = np.eye(2), 0.0
        for bit in bin(power)[2:]:
            P, log = (P @ P @ B, 2 * log) if bit == "1" else (P @ P, 2 * log)
            size = np.linalg.norm(P, 2)
            P, log = P / size, log + np.log(size)
        roots.append(100 * np.exp(log / power))
    assert np.all(np.diff(roots) < 0)
    assert roots[-1] == pytest.approx(0.9, rel=2e-3)
    assert np.all(np.array(roots) >= found.radius)


@pytest.mark.covers("spectral-radius")
def test_growth_without_bound_and_float32(dtype):
    A = GROWTH["peak"].astype(dtype)
    found = spectral_radius(A)
    assert found.peak.dtype == dtype
    assert found.peak == pytest.approx(float(growth("peak").peak), rel=1e4 * eps(dtype))
    assert all(bool(c.holds) for c in found.certificates.values())
    blow = spectral_radius(2 * A)
    assert blow.kreiss == np.inf
    assert all(bool(c.holds) for c in blow.certificates.values())
    defective = spectral_radius(np.array([[1.0, 1.0], [0.0, 1.0]], dtype))  # ρ = 1, yet the powers grow for ever
    assert defective.kreiss > 200
    assert not bool(defective.certificates["kreiss_lower"].applies)  # more powers are needed to see it
    assert bool(np.isfinite(spectral_radius(A * dtype.type(1e-30)).power_norms).all())
    for line in (found.plot().lines, blow.plot().lines):
        assert {"‖A^k‖", "ρ^k"} <= {item.get_label() for item in line}


@pytest.mark.slow
@pytest.mark.covers("spectral-radius")
def test_grcar_and_random_matrices():
    for A in (GRCAR / 3, *(RNG.standard_normal((12, 12)) / 4.5 for _ in range(4))):
        found = spectral_radius(A)
        assert all(bool(c.holds) for c in found.certificates.values())
        if np.isfinite(found.kreiss):
            assert found.kreiss >= 0.999 * grid(A)


# Low precision -------------------------------------------------------------------------------------------------------


NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "tfloat32": "tf32"}


@pytest.mark.covers("low-precision-spectrum-error")
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", "singular"),
        ("float32", "eigen"),
        ("bfloat16", "singular"),
        ("float16", "eigen"),
        ("e4m3", "singular"),
    ],
)
def test_no_value_moves_by_more_than_weyl(dtype, values):
    rng = np.random.default_rng(1)
    Q = orthogonal(12, rng)
    for spectrum in (10.0 ** -np.arange(12), rng.standard_normal(12), np.ones(12)):
        A = (Q * spectrum) @ Q.T
        A = (A + A.T) / 2
        found = low_precision_spectrum(A, dtype, values=values)
        assert all(bool(c.holds) for c in found.certificates.values())
        exact = np.linalg.eigvalsh(A)[::-1] if values == "eigen" else np.linalg.svd(A, compute_uv=False)
        np.testing.assert_allclose(found.values, exact, atol=1e-13)
        np.testing.assert_allclose(found.errors, found.low_values - found.values)
        u = (
            FORMATS[
                {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "tfloat32": "tf32"}.get(dtype, dtype)
            ].eps
            / 2
        )
        assert found.noise_level == pytest.approx(u * np.abs(exact).max())
        assert found.lost == np.sum(np.abs(exact) < found.noise_level)
        assert found.perturbation <= np.sqrt(12) * u * np.abs(exact).max() * 1.001 + 12 * 2.0**-10
        assert found.shift == pytest.approx(np.abs(found.errors).mean())


@pytest.mark.covers("low-precision-spectrum-error")
def test_small_singular_values_are_lost_and_large_ones_kept():
    Q = orthogonal(12)
    found = low_precision_spectrum((Q * 10.0 ** -np.arange(12)) @ Q.T, "bfloat16")
    relative = np.abs(found.errors) / found.values
    assert found.lost >= 8
    assert relative[0] < 2.0**-7
    assert np.all(relative[-4:] > 10)  # below u‖A‖ only noise is left
    assert {"float64", "low precision"} <= {line.get_label() for line in found.plot().lines}
    computed = low_precision_spectrum((Q * 10.0 ** -np.arange(12)) @ Q.T, "float32", arithmetic="computed")
    lapack = np.linalg.svd(((Q * 10.0 ** -np.arange(12)) @ Q.T).astype(np.float32), compute_uv=False)
    np.testing.assert_allclose(computed.low_values, lapack, atol=1e-6)
    assert all(bool(c.holds) for c in computed.certificates.values())
    assert computed.certificates["weyl"].bound <= 100 * 2.0**-24
    exact = low_precision_spectrum(np.diag(2.0 ** -np.arange(12)), "bfloat16")  # nothing to round
    assert exact.perturbation == 0
    assert low_precision_spectrum(np.zeros((12, 12))).lost == 0


# The QR algorithm ----------------------------------------------------------------------------------------------------

TORTURE = {
    "random": RNG.standard_normal((12, 12)),
    "symmetric": (lambda B: B + B.T)(RNG.standard_normal((12, 12))),
    "cyclic permutation": np.roll(np.eye(12), 1, axis=0),  # shifts of Wilkinson's kind alone go round in a circle
    "Hilbert": HILBERT,
    "Grcar": GRCAR,
    "defective": orthogonal(12, np.random.default_rng(3)) @ jordan((1.0, 4), (2.0, 8)) / 2,
    "zero": np.zeros((12, 12)),
    "triangular": np.triu(RNG.standard_normal((12, 12))),
    "graded": RNG.standard_normal((12, 12)) * 10.0 ** -np.arange(12),
    "tiny": RNG.standard_normal((12, 12)) * 1e-150,
    "huge": RNG.standard_normal((12, 12)) * 1e150,
}


@pytest.mark.covers("qr-algorithm")
@pytest.mark.parametrize("name", TORTURE)
def test_qr_algorithm_finds_the_schur_form(name, x64):
    A = TORTURE[name]
    found = qr_algorithm(A)
    assert bool(found.converged)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert found.steps <= 4 * len(A)
    Q, T, size = found.value.Q, found.value.T, np.abs(A).max() or 1.0
    assert np.all(np.tril(T, -1) == 0)
    np.testing.assert_allclose(Q.conj().T @ Q, np.eye(12), atol=1e-13)
    np.testing.assert_allclose(Q @ (T / size) @ Q.conj().T, A / size, atol=1e-13)
    values = found.value.eigenvalues / size
    root = 1e-13 if name != "defective" else 1e-3  # an eigenvalue of order m is known to eps^{1/m}
    if name == "Grcar":
        root = 1e-10
    theirs = np.linalg.eigvals(A / size)
    assert matched(values, theirs) <= 100 * root
    assert matched(values, np.asarray(jnp.linalg.eigvals(jnp.asarray(A / size)))) <= 100 * root
    assert abs(values.sum() - np.trace(A / size)) <= 1e-13
    # |det(A + E) − det A| <= ‖E‖ s_{n−1}(σ) to first order (Ipsen & Rehman 2008)
    s = np.linalg.svd(A / size, compute_uv=False)
    partial = abs(np.polynomial.polynomial.polyfromroots(-s)[1])
    assert abs(np.prod(values) - np.linalg.det(A / size)) <= 1e-13 * s[0] * partial + 1e-300


@pytest.mark.covers("qr-algorithm")
def test_qr_algorithm_in_float32_and_small(dtype):
    A = TORTURE["random"].astype(dtype)
    found = qr_algorithm(A)
    assert found.value.T.dtype == np.result_type(dtype, np.complex64)
    assert bool(found.holds)
    condition = np.linalg.cond(np.linalg.eig(A.astype(float))[1])
    assert matched(found.value.eigenvalues, np.linalg.eigvals(A.astype(float))) <= 500 * eps(dtype) * condition
    if dtype == np.float64:
        one = qr_algorithm(np.array([[-3.0]]))
        assert one.value.eigenvalues.tolist() == [-3.0]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [definiteness, diagonalizability, spectral_radius, qr_algorithm])
@pytest.mark.parametrize(
    ("A", "match"),
    [
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "A: found NaN"),
        (np.ones((2, 3)), "A: found shape"),
        (np.zeros((0, 0)), "A: found an empty"),
        (np.zeros(3), "A: found an array of shape"),
        (np.eye(2) * 1j, "A: found dtype"),
        ([[1.0], [2.0, 3.0]], "A: found a ragged"),
    ],
)
def test_bad_matrices(call, A, match):
    with pytest.raises(InputError, match=match):
        call(A)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: definiteness(np.array([[1.0, 2.0], [0.0, 1.0]])), "transpose"),
        (lambda: definiteness(np.eye(2), method="look"), "method"),
        (lambda: definiteness(np.eye(13), method="minors"), "minors"),
        (lambda: diagonalizability(np.eye(2), perturbation=np.eye(3)), "perturbation"),
        (lambda: jax.jit(lambda A: diagonalizability(A).condition)(jnp.eye(2)), "traced"),
        (lambda: spectral_radius(np.eye(2), powers=0), "powers"),
        (lambda: low_precision_spectrum(np.eye(2), "float8"), "dtype"),
        (lambda: low_precision_spectrum(1e6 * np.eye(2), "float16"), "65504"),
        (lambda: low_precision_spectrum(np.eye(2), "bfloat16", arithmetic="computed"), "arithmetic"),
        (lambda: low_precision_spectrum(np.ones((2, 3)), values="eigen"), "transpose"),
        (lambda: low_precision_spectrum(np.eye(2), values="both"), "values"),
    ],
)
def test_bad_settings(call, match):
    with pytest.raises(InputError, match=match):
        call()
