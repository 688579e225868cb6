"""Sharpness: the largest eigenvalue of the loss's Hessian, by a few steps of Lanczos.

When: to see progressive sharpening and the edge of stability, 2/η for gradient descent with step η. Cost: one
Hessian-vector product (about two gradients) per Lanczos step; memory ``steps`` copies of the parameters.
Source: Golub & Van Loan, Matrix Computations, 4th ed., §10.1; Cohen, Kaur, Li, Kolter & Talwalkar, Gradient descent on
neural networks typically occurs at the edge of stability (2021).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.hessian import hessian_operator
from corollary.core.solution import Solution, Status
from corollary.linalg.eigen._krylov import lanczos_process


def sharpness(
    loss: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    steps: int = 10,
    tol: float = 0.1,
    start: PyTree | None = None,
) -> Solution:
    """The largest Hessian eigenvalue of ``loss(params, batch, key)`` in the parameters.

    Parameters
    ----------
    loss
        A scalar function of any pytree of floating arrays, twice differentiable. Half-precision parameters are
        differentiated through a cast, the vectors are float32.
    params, batch
        Where to look.
    key
        For the loss and for the random start; ``None``: a fixed one.
    steps
        Lanczos steps; static.
    tol
        The residual relative to the eigenvalue that counts as converged.
    start
        A pytree like `params` to start from, such as the last answer's ``stats["vector"]``: a few steps then suffice.

    Returns
    -------
    Solution
        ``value``: the largest Ritz value θ. It never exceeds λ_max (but for rounding), and some eigenvalue lies within
        the residual of it: certificate ``residual`` (exact). ``stats["vector"]`` is the unit Ritz vector.

    Raises
    ------
    InputError
        Where `params` has no entries, or a setting is out of range.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> quadratic = lambda w, batch, key: 0.5 * jnp.sum(batch * w**2)
    >>> round(float(sharpness(quadratic, jnp.ones(4), jnp.array([1.0, 2.0, 3.0, 9.0])).value), 3)
    9.0
    """
    validation.integer(1)("steps", steps)
    if not isinstance(tol, jax.Array):
        validation.number(0)("tol", tol)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if size == 0:
        raise InputError("params: found no entries, expected at least one")
    key = jax.random.key(0) if key is None else key
    if start is None:
        start = optax.tree.random_like(key, params, jax.random.normal)
    theta, residual, vector, scale = _lanczos(loss, params, batch, key, start, min(steps, size))
    bound = jnp.asarray(tol).astype(theta.dtype) * jnp.abs(theta) + rounding(scale, 8.0 * min(steps, size))
    certificate = Certificate(
        "an eigenvalue of the Hessian lies within the residual of the Ritz value, and the residual <= tol |θ|",
        measured=residual,
        bound=bound,
        source="Golub & Van Loan, 4th ed., thm 10.1.2; λ_max >= θ by Courant-Fischer",
    )
    finite = jnp.isfinite(theta)
    status = Status.of(residual <= bound, finite)
    return Solution(theta, {"residual": certificate}, status, min(steps, size), {"vector": vector})


@functools.partial(jax.jit, static_argnames=("loss", "steps"))
def _lanczos(
    loss: Callable[..., Any], params: PyTree, batch: PyTree, key: Key[Array, ""], start: PyTree, steps: int
) -> tuple[Float[Array, ""], Float[Array, ""], PyTree, Float[Array, ""]]:
    def wide(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x, tree)

    def widened(at: PyTree, *rest: Any) -> Any:
        return loss(jax.tree.map(lambda x, p: x.astype(p.dtype), at, params), *rest)

    flat, unravel = ravel_pytree(wide(start))
    H = hessian_operator(widened, wide(params), batch, key)
    run = lanczos_process(lambda v: ravel_pytree(H.mv(unravel(v)))[0], flat, steps)
    # Rows past a breakdown belong to no vector: they are put below every Ritz value.
    live = jnp.arange(steps, dtype=run.count.dtype) < run.count
    size = jnp.abs(run.alpha).max() + 2 * jnp.abs(run.beta).max()
    low = jnp.where(size > 0, -2 * size, -1)
    values, vectors = jnp.linalg.eigh(jnp.where(live[:, None] & live, run.T, jnp.diag(jnp.full(steps, low))))
    top = vectors[:, -1]
    return values[-1], jnp.abs(run.beta[-1] * top[-1]), unravel(run.Q @ top), run.scale
