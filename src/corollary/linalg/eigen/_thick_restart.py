"""Thick-restart block Lanczos with a Chebyshev filter: the engine behind `eigsh`.

One cycle fills a basis of m vectors with the block Krylov space of p(A), takes the Ritz pairs, and keeps the best
with the residual block (Wu & Simon 2000): the space goes on as if it had never been cut. Between cycles the filter p
is sharpened as the edge of the wanted part comes into sight; a new p needs a new Krylov space, which starts from random
combinations of the Ritz vectors, with the converged ones locked. A block finds as many copies of a multiple eigenvalue
as it has columns; one more cycle from a random block orthogonal to the answer looks for those that were missed.
Cost per cycle: d (m − p) products, 4 n m² flops. Memory n (m + b).
Source: Wu & Simon, SIMAX 22 (2000); Zhou & Saad (2007); Fang & Saad (2012).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from corollary.linalg.eigen._chebyshev import Filter, apply_filter, designed, identity

GAIN = 100.0  # by which a filter lifts the last wanted eigenvalue over the unwanted ones
KEEP = 0.5  # of the room beside the wanted vectors is filled with further Ritz vectors
CHANGE = 2.5  # times the degree makes a new filter worth a new Krylov space
PLAIN, TRIAL, PRODUCTS = 4, 20, 180  # cycles, and products per column, before another filter is considered
LOOSE = 3e3  # estimates may be that far off: below, the residuals are measured
AHEAD = 0.3  # of the tolerance, before the last look
THICK, FRESH, VERIFY, DONE = 0, 1, 2, 3


class Plan(NamedTuple):
    """What is fixed in a run: k wanted, p kept, m in the basis, b in a block; the end of the spectrum; the checks."""

    k: int
    b: int
    p: int
    m: int
    both: bool  # ends, by modulus; else the upper end
    filtered: bool
    verify: bool


class State(NamedTuple):
    """After a cycle: Ritz vectors in V[:, :p], their residual block behind, T = diag(p(λ))."""

    V: Any
    T: Any
    filter: Filter
    values: Any  # (k,) of A
    residuals: Any  # (k,) of A, estimated, and measured when the phase is DONE or VERIFY
    low: Any  # the spectrum lies above
    scale: Any  # ‖A‖, from below
    phase: Any  # how the next cycle starts
    locked: Any
    products: Any
    cycles: Any
    age: Any  # cycles with this filter
    strictness: Any
    reach: Any  # what the last look for missed pairs saw


def plan(n: int, k: int, both: bool, filtered: bool, verify: bool, block: int, basis: int | None) -> Plan:
    """Sizes: whole blocks, kept pairs half-way between what is wanted and what fits."""
    b = block
    up = lambda x: -(-x // b) * b  # noqa: E731
    wanted = up(k)
    m = max(up(min(basis or max(2 * k, k + 20), n - b)), wanted + 2 * b)
    p = min(up(wanted + max(int((m - wanted) * KEEP), 1)), m - b)
    return Plan(k, b, p, m, both, filtered, verify)


def run(
    side: Any, plan: Plan, n: int, dtype: Any, start: Any, mix: Any, again: Any, tol: Any, max_cycles: Any
) -> State:
    """Cycles until k pairs have residuals below tol (A is scaled to order one) and nothing was missed."""
    xp = side.xp
    V = side.put(side.empty(n, plan.m + plan.b, dtype), xp.linalg.qr(start)[0], 0)
    zero = xp.zeros((), dtype)
    number = lambda i: xp.asarray(i, xp.int32)  # noqa: E731
    state = State(
        V=V,
        T=xp.zeros((plan.m, plan.m), dtype),
        filter=identity(xp, dtype),
        values=xp.zeros(plan.k, dtype),
        residuals=xp.full((plan.k,), xp.inf, dtype),
        low=zero,
        scale=zero,
        phase=number(THICK),
        locked=number(0),
        products=number(0),
        cycles=number(0),
        age=number(0),
        strictness=zero + LOOSE,
        reach=xp.zeros(3, dtype),
    )
    cycle = lambda s: _cycle(side, plan, s, mix, again, tol)  # noqa: E731
    return side.loop(lambda s: (s.phase != DONE) & (s.cycles < max_cycles), cycle, state)


def _cycle(side: Any, plan: Plan, s: State, mix: Any, again: Any, tol: Any) -> State:
    xp, (k, b, p, m) = side.xp, plan[:4]
    at, V, T = _begin(side, plan, s, mix, again)
    apply = lambda W: apply_filter(s.filter, side.product, side.recur, side.repeat, W)  # noqa: E731
    V, T, R = side.extend(apply, V, T, at, again)
    products = s.products + (m - at) * s.filter.degree.astype(xp.int32)
    full = xp.triu(T) + xp.triu(T, 1).T
    theta, S = xp.linalg.eigh(full)
    order = xp.argsort(-(xp.abs(theta) if plan.both else theta))
    theta, S = theta[order], S[:, order]
    coupling = xp.sqrt(xp.sum(xp.square(R @ S[m - b :]), axis=0))
    values = s.filter.inverse(xp, theta)
    estimates = (coupling * s.filter.conversion(xp, theta))[:k]
    low = xp.where(
        s.filter.degree == 1,
        xp.minimum(xp.min(theta - coupling), s.low),
        xp.minimum(s.filter.inverse(xp, xp.min(theta)), s.low),
    )
    X = V[:, :m] @ S[:, :p]
    after = V[:, m:]
    V = side.put(side.put(V, X, 0), after, p)
    T = xp.where(xp.eye(m, dtype=bool) & (xp.arange(m, dtype=xp.int32) < p), theta[:, None], 0).astype(T.dtype)
    scale = xp.maximum(s.scale, xp.maximum(xp.max(xp.abs(values[:k])), xp.abs(low)))
    tol = tol * scale
    hopeful = xp.max(estimates) <= xp.where(s.filter.degree == 1, 1, s.strictness) * tol
    missed = _reach(xp, plan, s, full)
    s = s._replace(V=V, T=T, low=low, scale=scale, products=products, cycles=s.cycles + 1, age=s.age + 1, reach=missed)
    return side.branch(
        hopeful,
        lambda s: _settle(side, plan, s, tol),
        lambda s: _go_on(xp, plan, s, values, estimates, tol),
        s,
    )


def _begin(side: Any, plan: Plan, s: State, mix: Any, again: Any) -> tuple[Any, Any, Any]:
    """Kept columns, basis and T at the start of a cycle."""
    xp, (k, b, p, m) = side.xp, plan[:4]
    wanted = -(-k // b) * b

    def thick(s: State) -> Any:
        return xp.where(s.cycles == 0, 0, p).astype(xp.int32), s.V, s.T

    def other(s: State) -> Any:
        verify = s.phase == VERIFY
        at = xp.where(verify, wanted, s.locked).astype(xp.int32)
        index = xp.arange(p, dtype=xp.int32)
        block = xp.where(verify, again, s.V[:, :p] @ xp.where(index[:, None] >= at, mix, 0))
        kept = xp.where(index < at, s.V[:, :p], 0)
        for _ in range(2):
            block = xp.linalg.qr(block - kept @ (kept.T @ block))[0]
        return at, side.put(s.V, block, at), xp.where(xp.arange(m, dtype=xp.int32) < at, s.T, 0)

    return side.branch(s.phase == THICK, thick, other, s)


def _settle(side: Any, plan: Plan, s: State, tol: Any) -> State:
    """Measure the residuals with A itself; if they are small, look for missed pairs, or finish."""
    xp, k = side.xp, plan.k
    X, image, values = rayleigh_ritz(side, s.V[:, : plan.p], k, plan.both)
    residuals = column_norms(xp, image - X * values)
    worst = xp.max(residuals)
    # A little more at first: the last look may cost the pairs some of it, as their own residuals are not in its basis.
    good = worst <= (xp.where(s.phase == VERIFY, 1, AHEAD) * tol if plan.verify else tol)
    same = xp.max(xp.abs(values - s.values)) <= 4 * tol
    finished = good & ((s.phase == VERIFY) & same) if plan.verify else good
    # Where the estimates promise what is not there, the basis has lost its relation: begin anew from the Ritz vectors.
    otherwise = xp.where(s.strictness <= 1, FRESH, THICK)
    phase = xp.where(finished, DONE, xp.where(good, VERIFY if plan.verify else DONE, otherwise)).astype(xp.int32)
    eased = xp.clip(s.strictness * tol / xp.where(worst > 0, worst, 1), 1, LOOSE / 2)
    strictness = xp.where(good | (phase == FRESH), LOOSE, eased).astype(s.T.dtype)
    locked = xp.where(phase == FRESH, 0, s.locked).astype(xp.int32)
    return s._replace(
        values=values,
        residuals=residuals,
        phase=phase,
        locked=locked,
        products=s.products + plan.p,
        strictness=strictness,
    )


def rayleigh_ritz(side: Any, V: Any, k: int, both: bool) -> tuple[Any, Any, Any]:
    """The k outermost Ritz pairs of A itself on span(V), and A times their vectors."""
    xp = side.xp
    image = side.product(V)
    H = V.T @ image
    values, Z = xp.linalg.eigh((H + H.T) / 2)
    order = xp.argsort(-(xp.abs(values) if both else values))[:k]
    return V @ Z[:, order], image @ Z[:, order], values[order]


def _go_on(xp: Any, plan: Plan, s: State, values: Any, estimates: Any, tol: Any) -> State:
    """Keep the Krylov space, or begin a new one with a sharper filter."""
    k, b, p = plan.k, plan.b, plan.p
    s = s._replace(residuals=estimates, phase=xp.asarray(THICK, xp.int32))
    if not plan.filtered:
        return s._replace(values=values[:k])
    size = xp.abs(values) if plan.both else values
    edge = size[p - 1]
    low = -edge if plan.both else s.low
    eps = float(np.finfo(s.T.dtype).eps)
    ratio = xp.maximum(tol / xp.where(s.scale > 0, s.scale, 1) / (500 * eps), 10).astype(s.T.dtype)
    wide = edge - low > 100 * eps * xp.abs(size[0])
    new = designed(
        xp, low, xp.where(wide, edge, low + 1), size[0], size[k - 1], ratio, GAIN, s.products.astype(s.T.dtype) / 4
    )
    # A low degree gets the products that a higher one would have had: a new Krylov space costs some hundreds.
    patience = xp.where(s.filter.degree == 1, PLAIN, xp.maximum(TRIAL, PRODUCTS / s.filter.degree))
    tried = xp.asarray(s.age).astype(patience.dtype) >= patience
    change = wide & tried & (new.degree > CHANGE * s.filter.degree)
    leading = xp.cumsum(xp.cumsum(estimates > 0.1 * tol) > 0) == 0
    locked = (xp.sum(leading) // b * b).astype(xp.int32)
    chosen = Filter(*(xp.where(change, a, b).astype(xp.asarray(b).dtype) for a, b in zip(new, s.filter, strict=True)))
    lifted = xp.where(change, chosen.value(xp, values), 0)
    T = xp.where(change, xp.where(xp.eye(s.T.shape[0], dtype=bool), lifted[:, None], 0), s.T).astype(s.T.dtype)
    phase = xp.where(change, FRESH, THICK).astype(xp.int32)
    return s._replace(filter=chosen, T=T, phase=phase, locked=locked, age=xp.where(change, 0, s.age), values=values[:k])


def _reach(xp: Any, plan: Plan, s: State, full: Any) -> Any:
    """Of a cycle that looks for missed pairs: the largest and least p(λ) that it saw, and its degree."""
    wanted = -(-plan.k // plan.b) * plan.b
    theta = xp.linalg.eigvalsh(full[wanted:, wanted:])
    degree = s.filter.degree * ((plan.m - wanted) // plan.b - 1)
    top = xp.max(xp.abs(theta)) if plan.both else theta[-1]
    seen = xp.stack([top, theta[0], xp.asarray(degree).astype(full.dtype)])
    return xp.where(s.phase == VERIFY, seen, s.reach)


def column_norms(xp: Any, X: Any) -> Any:
    """Lengths of columns, at order one."""
    return xp.sqrt(xp.sum(xp.square(X), axis=0))
