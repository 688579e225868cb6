"""The theorem of the power-like iterations: tan∠(X_t, U) ≤ (g_{b+1}/g_b)^t tan∠(X_0, U), with its rounding.

U spans the eigenvectors of the b largest gains, where a step multiplies the part along eigenvector i by g_i: |λ_i| in
power and subspace iteration, 1/|λ_i − μ| in inverse iteration. A is symmetric. A computed step is an exact step for
A + E with ‖E‖ <= δ at rounding level, whose U is turned by an angle η <= δ/(gap − 2δ) (Davis & Kahan): so the bound is
carried by t ← turn(r' turn(t, η), η), where turn(t, η) = tan(arctan t + η) and r' is the ratio for A + E at worst.
Source: Golub & Van Loan, Matrix Computations, 4th ed., Theorems 8.2.1, 8.2.2 and 8.1.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.operator import Operator, dtype
from corollary.linalg.eigen._iteration import Pair, Scalar, Seen, dense

THEOREM = "Golub & Van Loan, Matrix Computations, 4th ed., Theorems 8.2.1 and 8.2.2"


class Known(eqx.Module):
    """What the theorem needs: the invariant subspace, the contraction at worst, and the angle that rounding adds."""

    basis: Float[Array, "n b"]
    ratio: Scalar
    worst: Scalar  # r'
    slack: Scalar  # η


def known(A: Operator, reference: Any, b: int, shift: Any = None) -> Known | None:
    """The theorem's constants from eigenpairs: the caller's (values, vectors), or with ``True`` those of `eigh`."""
    if reference is None:
        return None
    n, kind = A.in_size(), dtype(A)
    if reference is True:
        values, vectors = jnp.linalg.eigh(dense(A))
    else:
        values, vectors = eigenpairs(reference, n, b)
    return _known(values.astype(kind), vectors.astype(kind), b, None if shift is None else jnp.asarray(shift, kind))


def eigenpairs(reference: Any, n: int, b: int) -> tuple[Array, Array]:
    """The caller's (values, vectors), checked for shape."""
    if not isinstance(reference, tuple) or len(reference) != 2:
        raise InputError("reference: expected True, or (values, vectors) as numpy.linalg.eigh returns them")
    values = jnp.asarray(validation.vector("reference[0]", reference[0]))
    vectors = jnp.asarray(validation.matrix("reference[1]", reference[1]))
    if vectors.shape != (n, values.shape[0]) or values.shape[0] < min(b + 1, n):
        found = f"found shapes {values.shape} and {vectors.shape}"
        raise InputError(f"reference: {found}, expected (k,) and ({n}, k) with k >= {min(b + 1, n)}")
    return values, vectors


def _known(values: Array, vectors: Array, b: int, shift: Array | None) -> Known:
    n, eps = vectors.shape[0], jnp.finfo(values.dtype).eps
    mu = jnp.zeros_like(values[0]) if shift is None else shift
    far = jnp.abs(values - mu)
    order = jnp.argsort(far if shift is not None else -far)
    inner, outer = far[order[b - 1]], far[order[b]] if b < n else jnp.zeros_like(mu)
    if shift is not None and b == n:
        outer = jnp.full_like(mu, jnp.inf)
    delta = (8 + 2 * n**0.5) * eps * (jnp.max(jnp.abs(values)) + jnp.abs(mu))
    small, large = (outer, inner) if shift is None else (inner, outer)
    quotient = lambda p, q: jnp.where(q > 0, p / jnp.where(q > 0, q, 1), jnp.inf)  # noqa: E731
    worst, slack = quotient(small + delta, large - delta), quotient(delta, jnp.abs(large - small) - 2 * delta)
    return Known(vectors[:, order[:b]], quotient(small, large), worst, slack)


def tangent(U: Float[Array, "n b"], X: Array) -> Scalar:
    """tan of the largest angle between the spans of orthonormal U and X; infinite where X has no part along U."""
    X = X.reshape(X.shape[0], -1)
    C = U.T @ X
    outside = X - U @ C
    outside = outside - U @ (U.T @ outside)
    if U.shape[1] == 1:
        cosine = jnp.abs(C[0, 0])
        return jnp.where(cosine > 0, jnp.linalg.norm(outside) / jnp.where(cosine > 0, cosine, 1), jnp.inf)
    left, s, right = jnp.linalg.svd(C)
    smallest = s[-1]
    inverse = (right.T / jnp.where(smallest > 0, s, 1)) @ left.T
    return jnp.where(smallest > 0, jnp.linalg.norm(outside @ inverse, 2), jnp.inf)


def watcher(theorem: Known | None, start: Pair) -> tuple[Callable[[Pair, Pair, Seen], Seen], Seen]:
    """What the driver watches: the measured tangent, the bound (rounding included) and the worst ratio of the two."""
    if theorem is None:
        return (lambda new, old, last: {}), {}
    angle = tangent(theorem.basis, start.vector)
    exact = _turned(angle, theorem.slack)
    first = {"tan_angle": angle, "tan_bound": _turned(exact, theorem.slack), "_exact": exact, "_start": angle}
    first["_worst"] = jnp.zeros_like(angle)

    def watch(new: Pair, old: Pair, last: Seen) -> Seen:
        exact = _turned(theorem.worst * _turned(last["_exact"], theorem.slack), theorem.slack)
        bound, angle = _turned(exact, theorem.slack), tangent(theorem.basis, new.vector)
        ratio = jnp.where(jnp.isfinite(bound), angle / jnp.where(bound > 0, bound, 1), 0)
        seen = {"tan_angle": angle, "tan_bound": bound, "_exact": exact, "_start": last["_start"]}
        return {**seen, "_worst": jnp.maximum(last["_worst"], ratio)}

    return watch, first


def _turned(t: Scalar, angle: Scalar) -> Scalar:
    """tan(arctan t + angle), or infinity past a right angle."""
    below = 1 - angle * t
    good = jnp.isfinite(t) & jnp.isfinite(angle) & (below > 0)
    return jnp.where(good, (t + angle) / jnp.where(good, below, 1), jnp.inf)


def rate(theorem: Known, seen: Seen) -> Certificate:
    """The theorem at every step of the run."""
    start = seen["_start"]
    begins = jnp.isfinite(_turned(start, theorem.slack))
    return Certificate(
        "tan∠(x_t, U) <= r^t tan∠(x_0, U) + rounding at every step t: the largest ratio of the two sides",
        measured=seen["_worst"],
        bound=jnp.ones_like(start),
        kind="theorem",
        source=THEOREM,
        assumptions=(
            Assumption("the start is not orthogonal to U, beyond rounding", True, begins),
            Assumption("r < 1: a gap behind the wanted eigenvalues", True, theorem.ratio < 1),
            Assumption("A is symmetric, and the reference are its eigenpairs"),
        ),
    )
