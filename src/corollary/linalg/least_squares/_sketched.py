"""Least squares from a sketch: its plain solution, the iterative Hessian sketch, and sketched preconditioning.

The sketched problem min ‖S(Ax − b)‖ has d rows instead of n, and its solution a residual within a few per cent of the
least. More digits come from Newton steps with fresh sketches of the Hessian AᵀA, or, as many as there are, from one
sketch that preconditions (`lstsq` with ``solver="sketch"``).

Cost: the sketch (8 nnz(A) for sparse signs), 2 d p² for its QR, two products with A a step. Source: Sarlós (FOCS 2006);
Pilanci & Wainwright, JMLR 17 (2016); Lacotte & Pilanci, ICML 2020; Martinsson & Tropp, Acta Numerica 29 (2020), §10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg._products import Products, products
from corollary.linalg.least_squares._claims import FAILURE, norms
from corollary.linalg.least_squares._factors import from_qr
from corollary.linalg.least_squares._lstsq import lstsq
from corollary.linalg.least_squares._tall import distortion
from corollary.linalg.sketch._dense import GaussianSketch
from corollary.linalg.sketch._sparse_sign import SparseSignSketch

SKETCHES: dict[str, Any] = {"sparse_sign": SparseSignSketch, "gaussian": GaussianSketch}
METHODS = ("solve", "hessian", "precondition")


@follows_input
def sketched_lstsq(
    A: Any,
    b: Any,
    *,
    method: str = "solve",
    rows: int | None = None,
    sketch: str = "sparse_sign",
    tol: Any = None,
    max_steps: int = 100,
    key: Key[Array, ""],
) -> Solution:
    """Minimise ‖A x − b‖ from a sketch of A with a few times as many rows as A has columns.

    Use it for n ≫ p: ``"solve"`` where a residual within some per cent of the least will do, ``"hessian"`` for a given
    accuracy by steps that each halve the error or better, ``"precondition"`` for full accuracy. Cost: a sketch, O(d p²)
    and two products with A, each step of ``"hessian"`` as much again.

    Parameters
    ----------
    A, b
        (n, p), dense or `scipy.sparse`; (n,) or (n, k). Where the columns are dependent, x is of least norm for the
        sketched problem.
    method
        ``"solve"``: argmin ‖S(Ax − b)‖. ``"hessian"``: x ← x + (1 − p/d)² (AᵀSᵀSA)⁻¹ Aᵀ(b − A x), a fresh S each time;
        the error falls by √(p/d) a step on average. ``"precondition"``: `lstsq` with ``solver="sketch"``, which chooses
        its own number of rows.
    rows
        d, at least p + 2; ``None``: 8 p + 64. O(p/ε) rows give ‖Ax − b‖ ≤ (1 + ε) min with constant probability.
    sketch
        ``"sparse_sign"`` or ``"gaussian"``.
    tol, max_steps
        For ``"hessian"``: ‖A(x − x*)‖ ≤ tol · ‖b‖ (``None``: eps^(2/3)), and the step limit.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value`` (p,) or (p, k); ``stats``: rows, distortion (of lengths in the range of A), residual_norm. Everything
        but ``"precondition"`` of NumPy data can be jitted and vmapped, also over keys.

    Raises
    ------
    InputError
        For bad data, d < p + 2, or d > n (nothing to gain: take `lstsq`).

    Notes
    -----
    Certificates, probabilistic with confidence 1 − 10⁻⁶ for each event: ``residual_ratio``: ‖Ax − b‖ against the least
    residual, √(‖r‖² − ‖Pr‖²), where four steps of conjugate gradients give ‖Pr‖² but for a rest that the distortion
    bounds. For ``"solve"`` its bound is the exact law of a Gaussian S, ratio² − 1 ~ p/(d − p + 1) · F(p, d − p + 1), of
    mean p/(d − p − 1). ``prediction_error`` (``"hessian"``): ‖A(x − x*)‖ against tol ‖b‖.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.random.default_rng(0).normal(size=(2000, 5))
    >>> solution = sketched_lstsq(A, A @ np.ones(5) + 1, method="hessian", key=jax.random.key(0))
    >>> bool(solution.holds), bool(np.allclose(solution.value, np.linalg.lstsq(A, A @ np.ones(5) + 1)[0]))
    (True, True)
    """
    validation.one_of(*METHODS)("method", method)
    validation.one_of(*SKETCHES)("sketch", sketch)
    validation.integer(1, none=True)("rows", rows)
    validation.integer(1)("max_steps", max_steps)
    if not isinstance(tol, jax.Array):
        validation.number(0, 1, none=True)("tol", tol)
    if method == "precondition":
        return lstsq(A, b, solver="sketch", key=key)
    b = validation.vector_or_matrix("b", b, host=True)
    P = products(A, (b, key))
    if b.shape[0] != P.shape[0]:
        raise InputError(f"b: found {b.shape[0]} rows, expected {P.shape[0]} as in A")
    n, p = P.shape
    d = 8 * p + 64 if rows is None else rows
    if not p + 2 <= d <= n:
        raise InputError(f"rows: found {d} for a matrix of {n} × {p}, expected p + 2 <= rows <= n")
    B = P.xp.asarray(b).astype(P.dtype).reshape(n, -1)
    sketched = lambda key: _sketched(SKETCHES[sketch](d, n, key=key, dtype=P.dtype), A, B)  # noqa: E731
    tol = jnp.asarray(P.eps ** (2 / 3) if tol is None else tol).astype(P.dtype)
    solution = _plain(P, B, d, sketched(key)) if method == "solve" else _hessian(P, B, d, sketched, tol, max_steps, key)
    if b.ndim == 1:
        stats = {**solution.stats, "residual_norm": solution.stats["residual_norm"][0]}
        solution = Solution(solution.value[:, 0], solution.certificates, solution.status, solution.steps, stats)
    return P.out(solution)


def _sketched(S: Any, A: Any, B: Any) -> tuple[Array, Array, Array]:
    """W = R⁺, ‖R‖_F and the sketched problem's solution of least norm, W Qᵀ S b, from S [A b] = Q R."""
    Y = jnp.concatenate([jnp.asarray(S.apply(part)) for part in (A, B)], axis=1)
    p = Y.shape[1] - B.shape[1]
    triangle = jnp.linalg.qr(Y, mode="r")
    rcond = jnp.asarray(p * float(jnp.finfo(Y.dtype).eps), Y.dtype)
    x, _, factor = from_qr(triangle[:p, :p], triangle[:p, p:], rcond, False)
    return factor.W, jnp.linalg.norm(factor.R), x


def _plain(P: Products, B: Any, d: int, sketched: tuple[Array, Array, Array]) -> Solution:
    W, size, x = sketched
    r, s = _residual(P, B, W, x)
    p = P.shape[1]
    ratio = jnp.asarray(gaussian_ratio(p, d), P.dtype)
    energy = _energy(P, W, s, 1 + distortion(p, d))
    return _solution(P, B, d, size, x, r, energy, ratio, {}, Note("solve: argmin ‖S(Ax − b)‖"), 1, True)


def _energy(P: Products, W: Array, s: Array, stretch: float) -> Array:
    """‖Pr‖² = sᵀ(UᵀU)⁻¹s for U = AW, from above: conjugate gradients sum it up (Hestenes & Stiefel, 1952, §6)."""
    direction, rho, energy = s, jnp.sum(s * s, axis=0), jnp.zeros(s.shape[1], s.dtype)
    for _ in range(4):
        image = W.T @ jnp.asarray(P.adjoint(P.apply(P.xp.asarray(W @ direction))))
        curvature = jnp.sum(direction * image, axis=0)
        alpha = jnp.where(curvature > 0, rho / jnp.where(curvature > 0, curvature, 1), 0)
        energy, s, old = energy + alpha * rho, s - alpha * image, rho
        rho = jnp.sum(s * s, axis=0)
        direction = s + rho / jnp.where(old > 0, old, 1) * direction
    return energy + stretch**2 * rho


def _hessian(
    P: Products, B: Any, d: int, sketched: Callable[..., Any], tol: Array, max_steps: int, key: Any
) -> Solution:
    p = P.shape[1]
    step = (1 - p / d) ** 2  # minimises E‖I − μ(UᵀSᵀSU)⁻¹‖ for a Gaussian S, whose value is then √(p/d)
    stretch = 1 + distortion(p, d)
    b_norm = norms(jnp.asarray(B))

    def advance(state: Any) -> Any:
        x, _, _, _, _, t, _ = state
        W, size, first = sketched(jax.random.fold_in(key, t))
        # The first sketch gives its own solution, the others a step from it, judged by the triangle that they bring.
        r, s = _residual(P, B, W, x)
        new = jnp.where(t == 0, first, x + jnp.asarray(step, x.dtype) * (W @ s))
        r, s = _residual(P, B, W, new)
        done = jnp.all(norms(s) * stretch <= tol * b_norm)
        return new, W, size, r, s, t + 1, done

    x = jnp.zeros((p, B.shape[1]), P.dtype)
    one = jnp.ones((), P.dtype)
    state = (x, jnp.eye(p, dtype=P.dtype), one, jnp.asarray(B), x, jnp.int32(0), jnp.asarray(False))
    going = lambda state: (state[5] < max_steps) & ~state[6]  # noqa: E731
    if P.traced:
        state = jax.lax.while_loop(going, advance, state)
    else:
        while bool(going(state)):
            state = advance(state)
    x, _, size, r, s, steps, done = state
    error = jnp.max(norms(s) / jnp.where(b_norm > 0, b_norm, 1)) * stretch
    certificate = Certificate(
        "‖A(x − x*)‖ <= tol ‖b‖",
        error,
        tol + 8 * P.eps,
        "probabilistic",
        "Pilanci & Wainwright, JMLR 17 (2016), Theorem 1",
        confidence=1 - FAILURE,
        assumptions=(Assumption("the sketch embeds the range of A as a Gaussian one would"),),
    )
    # ‖r‖² = ‖r*‖² + ‖A(x − x*)‖², and the last term is known to be below tol ‖b‖.
    floor = jnp.maximum(norms(r) ** 2 - (tol * b_norm) ** 2, 0)
    ratio = jnp.max(jnp.where(floor > 0, norms(r) / jnp.sqrt(jnp.where(floor > 0, floor, 1)), jnp.inf))
    note = Note("hessian: Newton steps with fresh sketches of AᵀA")
    energy, claims = (norms(s) * stretch) ** 2, {"prediction_error": certificate}
    return _solution(P, B, d, size, x, r, energy, ratio, claims, note, steps, done)


def gaussian_ratio(p: int, d: int) -> float:
    """Bound on ‖Ax − b‖/min but for a chance of 1e-6: ratio² − 1 = χ²_p/χ²_{d−p+1}, independent, for a Gaussian S."""
    return float(np.sqrt(1 + p / (d - p + 1) * scipy.stats.f.isf(FAILURE, p, d - p + 1)))


def _residual(P: Products, B: Any, W: Array, x: Array) -> tuple[Array, Array]:
    """r = b − A x and WᵀAᵀr."""
    r = B - P.apply(P.xp.asarray(x))
    return jnp.asarray(r), W.T @ jnp.asarray(P.adjoint(r))


def _solution(
    P: Products, B: Any, d: int, scale: Array, x: Array, r: Array, energy: Array, bound: Array,
    certificates: dict[str, Certificate], note: Note, steps: Any, done: Any,
) -> Solution:  # fmt: skip
    off = distortion(P.shape[1], d)
    size, top = norms(r), norms(jnp.asarray(B))
    floor = size**2 - energy
    ratio = jnp.where(floor > 0, size / jnp.sqrt(jnp.where(floor > 0, floor, 1)), jnp.inf)
    noise = 32 * P.eps * (scale * norms(x) + top)
    ratio = jnp.max(jnp.where(size <= noise, 1, ratio))  # nothing but rounding is left of the residual
    claim = Certificate(
        "‖Ax − b‖ against the least residual",
        ratio,
        bound + 8 * P.eps,
        "probabilistic",
        "Sarlós (FOCS 2006); for a Gaussian S exact: Muirhead (1982), Theorem 3.2.12",
        confidence=1 - 2 * FAILURE,
        assumptions=(Assumption("the sketch embeds the range of A and b as a Gaussian one would"),),
    )
    stats = {"rows": d, "distortion": off, "residual_norm": size, "solver": note}
    status = Status.of(done, jnp.all(jnp.isfinite(x)))
    return Solution(x, {"residual_ratio": claim, **certificates}, status, steps, stats)
