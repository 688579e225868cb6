"""Conjugate gradients against its theorem: the A-norm error of every step beside the Chebyshev bound.

When: to see what conditioning costs, and how far better clustered eigenvalues make it than κ alone says. To solve a
system take `lineax.CG`. Cost: two products a step. Source: Saad, Iterative Methods for Sparse Linear Systems, 2nd ed.
(2003), eq. 6.128; Golub & Van Loan, Matrix Computations, 4th ed., §11.3.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Operator, as_operator, dtype, shape
from corollary.core.precision import follows_input
from corollary.core.solution import Solution


@follows_input
def cg_rate(
    A: Any, b: Any, steps: int, *, eigenvalues: Any = None, reference: Any = None, start: Any = None
) -> Solution:
    """Run CG on A x = b and hold ‖x_k − x*‖_A against 2((√κ − 1)/(√κ + 1))^k ‖x_0 − x*‖_A at every step.

    Parameters
    ----------
    A
        (n, n) symmetric positive definite matrix or operator.
    b
        (n,) right-hand side.
    steps
        Number of steps.
    eigenvalues
        (λ_min, λ_max) of A, or bounds of them; ``None``: computed from the dense matrix.
    reference
        (n,) the solution x*; ``None``: by a dense solve.
    start
        (n,) x_0; ``None``: zero.

    Returns
    -------
    Solution
        ``value``: x after `steps`. ``history``: ``error`` and ``error_bound`` of steps 0 to `steps` (A-norm).
        ``stats``: ``condition`` κ, ``error``.

    Raises
    ------
    InputError
        For shapes that do not fit, or extremes that are not 0 < λ_min ≤ λ_max.

    Notes
    -----
    Certificate ``rate`` (theorem), measured at its worst step. Its rounding, eps κ (k + 16)‖x*‖_A, is where CG
    stagnates. In exact arithmetic CG ends after as many steps as b meets distinct eigenvalues.

    Examples
    --------
    >>> import numpy as np
    >>> run = cg_rate(np.diag([1.0, 2.0, 2.0, 10.0]), np.ones(4), 3)
    >>> bool(run.holds), bool(run.history["error"][3] < 1e-12)
    (True, True)
    """
    validation.integer(1)("steps", steps)
    op = as_operator(
        A if not hasattr(A, "shape") or not hasattr(A, "ndim") or hasattr(A, "nnz") else validation.matrix("A", A)
    )
    b = validation.vector("b", b).astype(dtype(op))
    n = b.shape[0]
    if shape(op) != (n, n):
        raise InputError(f"b: found {n} entries for A of shape {shape(op)}, expected a square A of as many rows")
    x0 = jnp.zeros_like(b) if start is None else validation.vector("start", start).astype(b.dtype)
    dense = op.as_matrix() if eigenvalues is None or reference is None else None
    ends = jnp.linalg.eigvalsh(dense)[jnp.array([0, -1])] if eigenvalues is None else jnp.asarray(eigenvalues)
    ends = ends.astype(b.dtype)
    if ends.shape != (2,) or (not isinstance(ends, Tracer) and not bool((ends[0] > 0) & (ends[1] >= ends[0]))):
        raise InputError(f"eigenvalues: found {ends}, expected 0 < λ_min <= λ_max: A positive definite")
    exact = jnp.linalg.solve(dense, b) if reference is None else jnp.asarray(reference).astype(b.dtype)
    if exact.shape != (n,) or x0.shape != (n,):
        raise InputError(f"reference, start: found shapes {exact.shape}, {x0.shape}, expected ({n},)")
    x, errors, bounds = _run(op, b, x0, exact, ends, steps)
    worst = jnp.argmax(errors / jnp.where(bounds > 0, bounds, 1))
    certificate = Certificate(
        "‖x_k − x*‖_A <= 2((√κ − 1)/(√κ + 1))^k ‖x_0 − x*‖_A at every step k",
        measured=errors[worst],
        bound=bounds[worst],
        kind="theorem",
        source="Saad, Iterative Methods for Sparse Linear Systems, 2nd ed. (2003), eq. 6.128",
        assumptions=(
            Assumption("A is symmetric with its spectrum within the given extremes"),
            Assumption("the reference solves A x = b"),
        ),
    )
    stats = {"condition": ends[1] / ends[0], "error": errors[-1]}
    history = {"error": errors, "error_bound": bounds}
    return Solution(x, {"rate": certificate}, steps=steps, stats=stats, history=history)


@eqx.filter_jit
def _run(op: Operator, b: Array, x0: Array, exact: Array, ends: Array, steps: int) -> tuple[Array, Array, Array]:
    # A/λ_max and b/‖b‖: the answer scales, nothing overflows.
    top = jnp.max(jnp.abs(b))
    unit = jnp.where(top > 0, top, 1) / ends[1]
    product = lambda v: op.mv(v) / ends[1]  # noqa: E731
    x, exact = x0 / unit, exact / unit
    r = b / ends[1] / unit - product(x)
    size = lambda e: jnp.sqrt(jnp.maximum(e @ product(e), 0))  # noqa: E731

    def step(carry: Any, _: Any) -> Any:
        x, r, p, rr = carry
        image = product(p)
        curvature = p @ image
        go_on = (curvature > 0) & (rr > 0)
        alpha = jnp.where(go_on, rr / jnp.where(go_on, curvature, 1), 0)
        x, r = x + alpha * p, r - alpha * image
        new = r @ r
        p = r + jnp.where(rr > 0, new / jnp.where(rr > 0, rr, 1), 0) * p
        return (x, r, p, new), size(exact - x)

    (x, _, _, _), errors = jax.lax.scan(step, (x, r, r, r @ r), None, steps)
    errors = jnp.concatenate([size(exact - x0 / unit)[None], errors])
    kappa = ends[1] / ends[0]
    k = jnp.arange(steps + 1, dtype=b.dtype)
    noise = jnp.finfo(b.dtype).eps * kappa * (k + 16) * (size(exact) + size(x0 / unit))
    root = jnp.sqrt(kappa)
    bounds = jnp.minimum(2 * ((root - 1) / (root + 1)) ** k, 1) * errors[0] + noise
    back = unit * jnp.sqrt(ends[1])
    return x * unit, errors * back, bounds * back
