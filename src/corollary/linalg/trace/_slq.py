"""The trace of a function of a symmetric matrix, tr f(A), with an interval: deflated stochastic Lanczos quadrature.

When: log-determinants, Schatten norms, Estrada indices, effective dimensions tr A(A + λ)⁻¹, of matrices that are too
large for all their eigenvalues or are known by products. Cost: `steps` products of A with a block of
`deflation` + `probes` columns (all in one block Krylov space) and O(n·(steps·columns)²/columns); rounds of fresh probes
where a tolerance asks for more. Sources: Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38 (2017); Chen & Hallman,
SIAM J. Matrix Anal. Appl. 44 (2023); see `_block_lanczos` for the bounds of the quadrature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Key

from corollary.core import operator, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.trace._block_lanczos import Krylov, advance, begin, grown, projection, ritz, started
from corollary.linalg.trace._probes import NORMAL, confidence_and_tolerance, square
from corollary.linalg.trace._quadrature import (
    Bracketed,
    Frame,
    Look,
    Spectral,
    derivative,
    divided_differences,
    frame,
    quadrature,
    spectral,
    spread,
)

SOURCE = "Ubaru, Chen & Saad (2017); Chen & Hallman (2023), Algorithm 3.1"
BRACKET = "Hansen & Pedersen (1982); Zimmerling, Druskin & Simoncini (2025)"
SYMMETRIC = Assumption("A is symmetric (monitored)")
GEOMETRIC = Assumption("the quadrature error falls geometrically, as its last changes did")
FIRST, STRIDE, SHARE = 4, 2, 0.4  # depth of the first look, steps between looks, the quadrature's share of `tol`


@follows_input
def slq(
    A: Any,
    f: Any,
    *,
    tol: Any = None,
    probes: int = 8,
    deflation: int = 8,
    steps: int = 20,
    max_probes: int = 1024,
    floor: Any = None,
    stieltjes: int = 0,
    confidence: float = 0.95,
    key: Key[Array, ""],
) -> Solution:
    """tr f(A) for a symmetric A: tolerance in, probes and steps out; or both fixed, under jit, vmap and grad.

    Parameters
    ----------
    A
        (n, n) symmetric: dense or sparse matrix, or operator.
    f
        Elementwise JAX function of the eigenvalues, or ``"log"``, ``"sqrt"``, ``"inverse"``, ``"inverse_sqrt"``,
        ``"exp"``.
    tol
        Half-width of the interval relative to the trace. Depth and probes grow until it is met, in a loop on the host
        (no jit), up to `steps` steps (at least 64 unless more are asked for) and `max_probes` probes.
    probes, deflation
        Columns that test, and columns that span the deflating basis Q; together one block.
    steps
        Depth of the block Krylov space. Where columns · steps ≥ n, or n is small, all eigenvalues are computed instead.
    max_probes
        See `tol`.
    floor
        A lower bound on A's eigenvalues that you know (a ridge; 0 for a semidefinite matrix and f = sqrt). With f of
        Stieltjes type it turns the error of the quadrature into a two-sided bound and makes it converge faster.
    stieltjes
        For your own f: +1 where f(x) = c + ∫ dμ(t)/(x + t) with μ ≥ 0, −1 where −f is such, 0 otherwise. Known for the
        named ones.
    confidence, key
        As in `hutchinson`.

    Returns
    -------
    Solution
        ``value``; ``stats``: ``stderr``, ``interval`` (statistical and quadrature error together), ``quadrature``
        (error of the quadrature), ``bracket`` (whether that is a bound), ``probes``, ``products``; ``steps``.

    Raises
    ------
    InputError
        Where A is not square, real and finite, a setting is out of range, or `tol` is given under jit.

    Notes
    -----
    Certificates: ``"estimate"`` (the standard error), ``"symmetry"`` (monitor: QᵀAQ is symmetric); given `tol`,
    ``"interval"`` (probabilistic: the wider of Student's interval and one for skewed forms, at half the risk since the
    run looks more than once, plus the quadrature error), and, given `floor` and a known type, ``"quadrature"`` (exact:
    Gauss against Gauss-Radau). Without the bracket the quadrature error extrapolates its last changes, an estimate.
    The intervals hold asymptotically in the number of probes; what they assume is listed.
    The gradient with respect to A is unbiased for that of tr f(A), i.e. f'(A), up to the quadrature; parameters that f
    closes over get theirs too.

    For many keys on a CPU take ``jax.lax.map`` rather than ``vmap``: large batches of eigendecompositions beside
    products have been seen to block XLA's threads for good on two cores (JAX 0.10).

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.diag(np.linspace(1.0, 2.0, 500))
    >>> found = slq(A, "log", tol=0.01, floor=1.0, key=jax.random.key(0))
    >>> exact = np.log(np.linspace(1.0, 2.0, 500)).sum()
    >>> bool(abs(found.value - exact) <= 0.01 * exact), bool(found.holds)
    (True, True)
    """
    g = spectral(f, stieltjes)
    validation.integer(2)("probes", probes)
    validation.integer(0)("deflation", deflation)
    validation.integer(3)("steps", steps)
    validation.integer(2)("max_probes", max_probes)
    if not isinstance(floor, Tracer):
        validation.number(none=True)("floor", floor)
    confidence_and_tolerance(tol, confidence)
    P = square(A, key)
    if tol is not None and P.traced:
        raise InputError("tol: found a traced matrix (under jit or vmap), expected fixed `probes` and `steps`")
    op = operator.as_operator(A)
    n, columns = P.shape[0], probes + deflation
    asked = _Asked(g, floor, tol, confidence, n)
    if columns * FIRST >= n or (tol is None and columns * steps >= n):
        return _dense(op, asked)
    key, sub = jax.random.split(key)
    X = jax.random.normal(sub, (n, columns), P.dtype)
    if tol is None:
        return _fixed(op, asked, X, deflation, steps)
    return _to_tolerance(op, asked, X, deflation, max(steps, 64), max_probes, key)


class _Asked(NamedTuple):
    """What the caller wants: the function, the floor, the tolerance or None, the confidence; and the dimension."""

    g: Spectral
    floor: Any
    tol: Any
    confidence: float
    n: int

    @property
    def level(self) -> float:
        """Confidence of each look: half the risk is kept for stopping where an interval happens to look narrow."""
        return self.confidence if self.tol is None else (1 + self.confidence) / 2


def _fixed(A: Any, asked: _Asked, X: Array, b: int, steps: int) -> Solution:
    """One block Krylov space of fixed shape; the derivative is attached to the value."""
    n, k = X.shape
    m, q = k - b, _depth(steps)
    space = started(jax.lax.stop_gradient(A), X, steps)
    T = projection(space.alpha, space.beta, jnp)
    at = frame(T, space.start, b, q, n - b * q, jnp)
    found = quadrature(asked.g, space.alpha, space.beta, at, asked.floor, jnp)
    theta, Y = ritz(T, jnp, asked.floor)
    S = jnp.concatenate([at.Z, at.C / m**0.5], axis=1)
    V = jnp.swapaxes(space.V, 0, 1).reshape(n, -1)
    value = found.look.value + derivative(A, differences=divided_differences(asked.g.f, theta), V=V, Y=Y, S=S)
    return _solution(asked, value, [found.look], found, space, steps, steps * k)


def _to_tolerance(A: Any, asked: _Asked, X: Array, b: int, max_steps: int, max_probes: int, key: Any) -> Solution:
    """Deepen until the quadrature is within its share of the tolerance; then fresh probes until the interval is."""
    n, k = X.shape
    max_steps = min(max_steps, n // k)
    space, found, at = _deepened(A, asked, X, b, FIRST, max_steps)
    depth = products = int(space.steps)
    looks, known, error = [found.look], found.look.known, found.error
    Q = jnp.einsum("jnk,jkb->nb", space.V[:depth], jnp.asarray(at.Z).reshape(depth, k, -1))
    while True:
        forms = np.concatenate([each.forms for each in looks])
        value, reach = known + forms.mean(), spread(looks, asked.level, np)
        half = max(reach[1:]) + error
        stuck = error > asked.tol * abs(value)
        if not half > asked.tol * abs(value) or stuck or len(forms) >= max_probes:
            break
        key, sub = jax.random.split(key)
        Psi = jax.random.normal(sub, (n, k), X.dtype)
        for _ in range(2):
            Psi = Psi - Q @ (Q.T @ Psi)
        fresh, more, _ = _deepened(A, asked, Psi, 0, depth, max_steps, n - Q.shape[1], known)
        looks.append(more.look)
        error += (more.error - error) / len(looks)
        products += int(fresh.steps)
    found = found._replace(error=error)
    return _solution(asked, value, looks, found, space, depth, products * k)


def _deepened(
    A: Any, asked: _Asked, X: Array, b: int, first: int, max_steps: int, rest: int | None = None, known: Any = 0
) -> tuple[Krylov, Bracketed, Frame]:
    """Block steps until the quadrature error is within its share of the tolerance, or `max_steps`."""
    n, k = X.shape
    space, until = begin(X, max(12, first)), min(first, max_steps)
    width = float(np.inf)
    while True:
        if until > space.capacity:
            space = grown(space, 2 * space.capacity)
        space = _advance(A, space, jnp.int32(until))
        alpha, beta = (np.asarray(x)[:until] for x in (space.alpha, space.beta))
        if not np.isfinite(alpha).all():
            raise InputError("A: its products are not finite, expected finite entries of moderate size")
        q = _depth(until)
        at = frame(projection(alpha, beta, np), np.asarray(space.start), b, q, rest or n - b * q, np)
        found = quadrature(asked.g, alpha, beta, at, asked.floor, np)
        goal = float(asked.tol * abs(found.look.value + known))
        before, width = width, float(max(spread([found.look], asked.level, np)[1:]))
        deepen = found.error > SHARE * goal or (
            b and _deeper_is_cheaper(k, b, until, (1 - SHARE) * goal, width, before)
        )
        if until == max_steps or not deepen:
            return space, found, at
        until = min(until + STRIDE, max_steps)


def _deeper_is_cheaper(k: int, b: int, depth: int, goal: float, width: float, before: float) -> bool:
    """Whether STRIDE more steps, if they narrow the interval as the last ones did, save more passes than they cost."""
    m = k - b
    rounds = lambda w: np.ceil(m * max((w / goal) ** 2 - 1, 0) / k) if goal > 0 else 0  # noqa: E731
    narrower = width * min(width / before, 1) if before > 0 else width
    return bool(STRIDE + rounds(narrower) * (depth + STRIDE) < rounds(width) * depth)


_advance = eqx.filter_jit(advance, donate="all-except-first")


def _dense(A: Any, asked: _Asked) -> Solution:
    """A small matrix: all eigenvalues, so that only rounding is left."""
    n, dtype = asked.n, operator.dtype(A)
    eye = jnp.eye(n, dtype=dtype)
    M = jax.lax.stop_gradient(operator.matmat(A, eye))
    skew, size = jnp.linalg.norm(M - M.T), jnp.linalg.norm(M)
    theta, Y = ritz((M + M.T) / 2, jnp)
    f = asked.g.at(theta)
    delta = n**0.5 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(theta))
    error = jnp.sum(jnp.abs(asked.g.at(theta + delta) - f))
    value = jnp.sum(f) + derivative(A, differences=divided_differences(asked.g.f, theta), V=eye, Y=Y, S=eye)
    found = Bracketed(None, error, True)
    space = begin(jnp.ones((n, 1), dtype), 1)._replace(skew=skew, size=size)
    return _solution(asked, value, [], found, space, 1, n)


def _depth(steps: int) -> int:
    """Blocks of Ω's Krylov space that deflate: half, so that the other half resolves f on them."""
    return max(1, min((steps + 1) // 2, steps - 2))


def _solution(
    asked: _Asked, value: Any, looks: list[Look], found: Bracketed, space: Krylov, steps: int, products: int
) -> Solution:
    dtype = space.alpha.dtype
    held = jax.lax.stop_gradient(jnp.asarray(value, dtype))
    error = jnp.asarray(found.error, dtype)
    reach = (jnp.zeros((), dtype),) * 3
    if looks:
        on_host = isinstance(looks[0].forms, np.ndarray)
        reach = tuple(jnp.asarray(x, dtype) for x in spread(looks, asked.level, np if on_host else jnp))
    stderr, below, above = reach[0], reach[1] + error, reach[2] + error
    half = jnp.maximum(below, above)
    bracket = asked.floor is not None and asked.g.stieltjes != 0
    assumptions = (NORMAL, SYMMETRIC)
    certificates = {
        "estimate": Certificate(
            "tr f(A)", measured=held, stderr=stderr, kind="estimate", source=SOURCE, assumptions=assumptions
        ),
        "symmetry": Certificate(
            "‖QᵀAQ − (QᵀAQ)ᵀ‖_F <= rounding",
            measured=space.skew,
            bound=rounding(space.size, 16 * asked.n**0.5),
            kind="monitor",
        ),
    }
    converged: Any = True
    if asked.tol is not None:
        bound = jnp.asarray(asked.tol, dtype) * jnp.abs(held)
        converged = half <= bound
        certificates["interval"] = Certificate(
            "half-width of the interval of tr f(A) <= tol·|tr f(A)|",
            measured=half,
            bound=bound,
            kind="probabilistic",
            confidence=asked.confidence,
            source=SOURCE,
            assumptions=assumptions if bracket else (*assumptions, GEOMETRIC),
        )
        if bracket:
            certificates["quadrature"] = Certificate(
                "half the gap between Gauss and Gauss-Radau <= tol·|tr f(A)|",
                measured=error,
                bound=bound,
                source=BRACKET,
                assumptions=(
                    Assumption("no Ritz value lies below `floor`", checked=True, holds=jnp.asarray(found.floor_holds)),
                    Assumption("no eigenvalue lies below `floor`"),
                ),
            )
    stats = {
        "stderr": stderr,
        "interval": (held - below, held + above),
        "quadrature": error,
        "bracket": Note("Gauss and Gauss-Radau" if bracket else "extrapolated from the last steps"),
        "probes": sum(each.forms.shape[0] for each in looks),
        "products": products,
    }
    status = Status.of(converged, jnp.isfinite(held))
    return Solution(jnp.asarray(value, dtype), certificates, status, steps, stats)
