"""Is a matrix diagonalizable? Multiplicities of its eigenvalues, P and D, and what κ(P) says of their accuracy.

When: before using P D P⁻¹ for anything, and to see why eigenvalues of a non-normal matrix are fuzzy. Rounding splits an
eigenvalue of algebraic multiplicity m with one eigenvector into m values about (eps‖A‖)^{1/m} apart: so no fixed
tolerance can tell multiple from close. A cluster is taken as one eigenvalue μ (its mean) where a perturbation of
rounding's size moves every part of it there: |μ_c − μ| s_c ≤ 4 m δ, δ = p(n)·eps·‖A‖, for every eigenvalue and every
subcluster c, with mean μ_c and 1/s_c the norm of its spectral projector, which is the condition of μ_c. With T₁₁ the
cluster's block of the ordered Schur form, its geometric multiplicity is the nullity of T₁₁ − μI, to δ/s.
Cost: O(n³), and as much for each cluster that is tried.
Source: Golub & Wilkinson, SIAM Review 18 (1976); Golub & Van Loan, Matrix Computations, 4th ed., §7.1.5, §7.2, §7.6.3.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
import scipy.cluster.hierarchy
import scipy.linalg
import scipy.spatial.distance
from jax.core import Tracer
from jaxtyping import Bool, Float, Inexact, Int

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError

BAUER_FIKE = "Bauer & Fike (1960): Golub & Van Loan, Matrix Computations, 4th ed., Theorem 7.2.2"


class Diagonalizability(eqx.Module):
    """The distinct eigenvalues with their multiplicities and, where they suffice, A = P D P⁻¹."""

    eigenvalues: Inexact[np.ndarray, " d"]  # distinct, each the mean of its cluster
    algebraic: Int[np.ndarray, " d"]  # they sum to n, over the complex numbers
    geometric: Int[np.ndarray, " d"]  # 1 <= geometric <= algebraic
    radius: Float[np.ndarray, " d"]  # how far rounding spread each cluster
    diagonalizable: Bool[np.ndarray, ""]
    P: Inexact[np.ndarray, "n n"] | None  # unit eigenvectors; unitary where A is normal; None for a defective A
    D: Inexact[np.ndarray, "n n"] | None
    condition: Float[np.ndarray, ""]  # κ₂(P), infinite for a defective A
    certificates: dict[str, Certificate]

    def bauer_fike(self, perturbation: Any) -> float:
        """κ(P)·‖E‖₂: no eigenvalue of A + E is further from the spectrum of A."""
        return float(self.condition) * float(perturbation) if perturbation else 0.0


def diagonalizability(A: Any, *, perturbation: Any = None) -> Diagonalizability:
    """Algebraic and geometric multiplicities, P and D where A is diagonalizable, κ(P) and Bauer and Fike's bound.

    Use it for dense matrices up to some hundred rows. The verdict is numerical: a matrix within rounding of a defective
    one is called defective, since its eigenvectors cannot be had. The work is LAPACK's, on the host; not under `jit`.

    Parameters
    ----------
    A
        (n, n) real matrix.
    perturbation
        E, (n, n), to hold Bauer and Fike's theorem against the eigenvalues of A + E.

    Returns
    -------
    Diagonalizability
        NumPy arrays: ``eigenvalues``, ``algebraic``, ``geometric``, ``radius`` over the distinct eigenvalues (sorted by
        real, then imaginary part), ``diagonalizable``, ``P``, ``D``, ``condition``, ``certificates``;
        ``.bauer_fike(‖E‖)``. P is real where all eigenvalues are; an orthogonal matrix, being normal, has a unitary P,
        in general complex.

    Raises
    ------
    InputError
        For a matrix that is not square, real and finite, or is traced.

    Notes
    -----
    Certificates: ``clusters`` (monitor): the clusters lie further apart than rounding spread them, so that the
    multiplicities are beyond doubt; ``eigendecomposition`` (exact): ‖A P − P D‖ at rounding level; with a
    `perturbation` ``bauer_fike`` (theorem): max_j min_i |λ_j(A + E) − λ_i| ≤ κ(P)‖E‖₂.
    Source: Golub & Van Loan, 4th ed., Theorem 7.2.2 and Corollary 7.1.8.

    Examples
    --------
    >>> import numpy as np
    >>> found = diagonalizability(np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
    >>> found.eigenvalues.tolist(), found.algebraic.tolist(), found.geometric.tolist(), bool(found.diagonalizable)
    ([2.0, 3.0], [2, 1], [1, 1], False)
    """
    A = _square("A", A)
    n, scale = len(A), float(np.abs(A).max())
    E = None if perturbation is None else _square("perturbation", perturbation).astype(A.dtype)
    if E is not None and E.shape != A.shape:
        raise InputError(f"perturbation: found shape {E.shape}, expected {A.shape}")
    B = A / scale if scale else A
    norm, eps = float(np.linalg.norm(B, 2)), float(np.finfo(A.dtype).eps)
    delta = 4 * n**0.5 * eps * norm
    schur: Any = scipy.linalg.schur(B, output="complex")
    T, Q = schur
    digit = max(64 * delta, 1e-300)  # real parts that agree to rounding do not decide the order
    order = lambda c: (round(c.mean.real / digit), c.mean.imag)  # noqa: E731
    clusters = sorted(map(_settle, _clusters(T, Q, delta)), key=order)
    means: Any = np.array([c.mean for c in clusters])
    algebraic, geometric = (np.array([getattr(c, k) for c in clusters]) for k in ("algebraic", "geometric"))
    whole = bool(np.all(algebraic == geometric))
    real = not np.any(means.imag)
    means = (means.real if real else means).astype(A.dtype if real else T.dtype)
    certificates = {"clusters": _separation(clusters, means)}
    P = D = None
    condition = np.asarray(np.inf, A.dtype)
    if whole:
        normal = float(np.linalg.norm(np.triu(T, 1))) <= n * delta
        values, P = np.repeat(means, algebraic), _vectors(B, Q, clusters, normal, real)
        D = np.diag(values * scale)
        s = np.linalg.svd(P, compute_uv=False)
        condition = np.asarray(s[0] / s[-1] if s[-1] else np.inf, A.dtype)
        certificates["eigendecomposition"] = _decomposition(B, P, values, norm, clusters, scale)
    if E is not None:
        certificates["bauer_fike"] = _bauer_fike(A, E, means * scale, clusters, condition, scale)
    radius = np.array([c.radius for c in clusters], A.dtype) * A.dtype.type(scale)
    return Diagonalizability(
        means * A.dtype.type(scale), algebraic, geometric, radius, np.asarray(whole), P, D, condition, certificates
    )


def _square(name: str, A: Any) -> np.ndarray:
    if isinstance(A, Tracer):
        raise InputError(f"{name}: found a traced matrix, expected a concrete one: the multiplicities shape the answer")
    A = np.asarray(validation.matrix(name, A, host=True))
    if A.shape[0] != A.shape[1]:
        raise InputError(f"{name}: found shape {A.shape}, expected a square matrix")
    return A


class Cluster(NamedTuple):
    """Eigenvalues that are taken as one."""

    index: np.ndarray  # of its values on the Schur form's diagonal
    mean: complex
    radius: float
    noise: float  # δ/s, what rounding may do to the block
    basis: np.ndarray  # of its invariant subspace
    block: np.ndarray  # N = T₁₁ − μI
    algebraic: int
    geometric: int


def _clusters(T: np.ndarray, Q: np.ndarray, delta: float) -> list[Cluster]:
    """From the top of the single-linkage tree down: the largest clusters that rounding explains."""
    values: Any = np.diagonal(T)
    n = len(T)
    if n == 1:
        return [_cluster(T, Q, np.array([0]), delta)]
    gaps = scipy.spatial.distance.pdist(np.column_stack([values.real, values.imag]))
    tree: Any = scipy.cluster.hierarchy.to_tree(scipy.cluster.hierarchy.linkage(gaps, "single"), rd=True)
    nodes = tree[1]
    cosines = _cosines(T)

    @functools.cache
    def cluster(number: int) -> Cluster:
        return _cluster(T, Q, np.array(sorted(nodes[number].pre_order())), delta)

    def explained(number: int) -> bool:
        index = nodes[number].pre_order()
        m, mean = len(index), np.mean(values[index])
        if np.any(np.abs(values[index] - mean) * cosines[index] > 4 * m * delta):
            return False  # the cheap half of the test, which fails for most
        below = [nodes[number]]
        while below:
            node = below.pop()
            if not node.is_leaf():
                part = cluster(node.get_id())
                if abs(part.mean - mean) * delta > 4 * m * delta * part.noise:
                    return False
                below += [node.get_left(), node.get_right()]
        return True

    found, open_ = [], [nodes[-1]]
    while open_:
        node = open_.pop()
        if node.is_leaf() or explained(node.get_id()):
            found.append(cluster(node.get_id()))
        else:
            open_ += [node.get_left(), node.get_right()]
    return found


def _cosines(T: np.ndarray) -> np.ndarray:
    """|yᴴx| of unit left and right eigenvectors: 1 / the condition of each eigenvalue; 0 for a defective one."""
    found: Any = scipy.linalg.eig(T, left=True, right=True)
    _, left, right = found
    return np.abs(np.sum(left.conj() * right, axis=0))


def _cluster(T: np.ndarray, Q: np.ndarray, index: np.ndarray, delta: float) -> Cluster:
    """Order the Schur form so that the cluster leads; its block, and the size of its spectral projector."""
    n, m = len(T), len(index)
    chosen = np.zeros(n, np.int32)
    chosen[index] = 1
    (trsen,) = scipy.linalg.get_lapack_funcs(("trsen",), (T,))
    ordered, basis, values, _, s, _, info = trsen(chosen, T, Q, job=b"E", lwork=max(1, m * (n - m)))
    if info:
        raise np.linalg.LinAlgError(f"reordering of the Schur form failed (info = {info})")
    mean = complex(np.mean(values[:m]))
    radius = float(np.abs(values[:m] - mean).max())
    block = ordered[:m, :m] - mean * np.eye(m)
    noise = delta / max(float(np.real(s)), np.finfo(np.float64).tiny)
    nullity = int(np.sum(np.linalg.svd(block, compute_uv=False) <= 4 * m * noise))
    return Cluster(index, mean, radius, noise, basis[:, :m], block, m, max(nullity, 1))


def _settle(c: Cluster) -> Cluster:
    """A real matrix: a mean that is real to rounding is real."""
    return c._replace(mean=complex(c.mean.real, 0.0)) if abs(c.mean.imag) <= c.noise else c


def _separation(clusters: list[Cluster], means: np.ndarray) -> Certificate:
    """The largest radius (or rounding) relative to half of the distance to the next cluster."""
    worst = 0.0
    for (i, a), (j, b) in itertools.combinations(enumerate(clusters), 2):
        worst = max(worst, 2 * (max(a.radius, a.noise) + max(b.radius, b.noise)) / abs(means[i] - means[j]))
    return Certificate(
        "any two clusters are at least twice as far apart as rounding spread them",
        worst,
        1.0,
        "monitor",
        "Golub & Wilkinson, SIAM Review 18 (1976)",
    )


def _vectors(B: np.ndarray, Q: np.ndarray, clusters: list[Cluster], normal: bool, real: bool) -> np.ndarray:
    """Unit eigenvectors: orthonormal within each eigenspace, and all of them where A is normal."""
    if normal and real:
        return scipy.linalg.eigh((B + B.T) / 2)[1]  # normal with real eigenvalues is symmetric
    if normal:
        return np.concatenate([Q[:, c.index] for c in clusters], axis=1)
    if not real:
        return np.concatenate([c.basis for c in clusters], axis=1)  # N = 0: the invariant subspace is the eigenspace
    kernels = (np.linalg.svd(B - B.dtype.type(c.mean.real) * np.eye(len(B), dtype=B.dtype)) for c in clusters)
    return np.concatenate([Vt[-c.algebraic :].T for c, (_, _, Vt) in zip(clusters, kernels, strict=True)], axis=1)


def _decomposition(
    B: np.ndarray, P: np.ndarray, values: np.ndarray, norm: float, clusters: list[Cluster], scale: float
) -> Certificate:
    n, eps = len(B), float(np.finfo(B.dtype).eps)
    spread = max(c.algebraic * (c.radius + c.noise) for c in clusters)
    return Certificate(
        "‖A P − P D‖_F at rounding level, and that of the clusters' spread",
        float(np.linalg.norm(B @ P - P * values)) * scale,
        n**0.5 * (16 * n * eps * norm + 8 * spread) * scale,
        "exact",
        "Golub & Van Loan, Matrix Computations, 4th ed., §7.1.4",
    )


def _bauer_fike(
    A: np.ndarray, E: np.ndarray, means: np.ndarray, clusters: list[Cluster], condition: np.ndarray, scale: float
) -> Certificate:
    moved = np.linalg.eigvals(A + E)
    distance = float(np.abs(moved[:, None] - means[None, :]).min(axis=1).max())
    eps, finite = float(np.finfo(A.dtype).eps), bool(np.isfinite(condition))
    kappa = float(condition) if finite else np.inf
    size = float(np.linalg.norm(E, 2))
    noise = 8 * len(A) * eps * (float(np.linalg.norm(A, 2)) + size) + max(c.noise for c in clusters) * scale
    return Certificate(
        "every eigenvalue of A + E is within κ(P)·‖E‖₂ of one of A",
        distance,
        kappa * (size + noise) if finite else np.inf,
        "theorem",
        BAUER_FIKE,
        assumptions=(Assumption("A is diagonalizable", True, finite),),
    )
