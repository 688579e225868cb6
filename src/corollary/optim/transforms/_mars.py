"""MARS: variance reduction inside AdamW, Lion or Shampoo, by a scaled difference of gradients.

    c_t = g_t + γ·β1/(1 − β1)·(g_t − g₋),    c_t ← c_t/max(1, ‖c_t‖) per leaf,

and the base optimizer runs on c. Exactly, g₋ is the gradient of the CURRENT batch at the PREVIOUS parameters (one more
gradient a step, by `grad_fn`); approximately it is the last step's gradient, for free. γ = 0 without clipping is the
base. Cost: O(n) beside the base. Source: Yuan, Liu, Wu, Zhou & Gu, "MARS: unleashing the power of variance reduction
for training large models" (2024), algorithms 1 to 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim._tree import norm
from corollary.optim.transforms._transform import after, at, check, counter, descend, moment, needs, rule, zeros


class MARSState(NamedTuple):
    """Steps taken, and what the difference is taken to: the last gradient, or the last parameters (exact form)."""

    count: Array
    last: PyTree


class MomentState(NamedTuple):
    """Steps taken and the first moment."""

    count: Array
    moment: PyTree


def mars_correction(
    gamma: Any = 0.025, b1: Any = 0.95, max_norm: Any = 1.0, *, exact: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The corrected and clipped gradient c of MARS, to be chained before any optimizer.

    Parameters
    ----------
    gamma
        γ ≥ 0, number or schedule; 0 leaves the gradient.
    b1
        β1 of the optimizer that follows.
    max_norm
        Largest norm of a leaf's c; None: no clipping.
    exact
        Take g₋ at the previous parameters on the current batch, by `grad_fn`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, grad_fn=...)``; `grad_fn` only with ``exact``.

    Notes
    -----
    The first step has no correction, as in the paper, where x_0 = x_1. (The authors' code takes g₋ = 0 there.)
    Memory: one number a parameter. Cost: O(n), and a gradient with ``exact``. Defaults: γ = 0.025, β1 = 0.95 of the
    authors' code. When: in a chain.

    Examples
    --------
    >>> opt, x = mars_correction(1.0, 0.5, None), jnp.array([1.0])
    >>> _, state = opt.update(x, opt.init(x), x)
    >>> opt.update(3 * x, state, x)[0].tolist()
    [5.0]
    """
    check("gamma", gamma, 0.0)
    check("b1", b1, 0.0, 1.0)
    if max_norm is not None:
        check("max_norm", max_norm, 0.0, open_low=True)

    def init(params: PyTree) -> MARSState:
        return MARSState(counter(), jax.tree.map(jnp.array, params) if exact else zeros(params))

    def update(
        grads: PyTree, state: MARSState, params: Any = None, grad_fn: Any = None, **_: Any
    ) -> tuple[PyTree, MARSState]:
        now, decay = state.count, at(b1, state.count)
        if exact:
            before = needs("grad_fn", grad_fn, "a function from parameters to the gradient on this batch")(state.last)
        else:
            before = state.last
        scale = jnp.where(now > 0, at(gamma, now) * decay / (1 - decay), 0)

        def corrected(g: Array, last: Array) -> Array:
            c = g + scale * (g - last)
            if max_norm is None:
                return c
            limit = at(max_norm, now)
            size = norm(c)
            return c * jnp.where(size > limit, limit / jnp.where(size > limit, size, 1), 1)

        new = jax.tree.map(corrected, grads, before)
        return new, MARSState(after(now), needs("params", params, "them") if exact else grads)

    return rule(init, update)


def mars(
    learning_rate: Any,
    gamma: Any = 0.025,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    max_norm: Any = 1.0,
    *,
    base: str = "adamw",
    exact: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """MARS around AdamW, Lion (signum on c) or Shampoo (orthogonalised momentum for matrices, AdamW for the rest).

    Parameters
    ----------
    learning_rate
        η, number or schedule.
    gamma
        γ of the correction; 0 (with ``max_norm=None``) is the base.
    b1, b2, eps
        Of the base.
    weight_decay
        Decoupled λ.
    max_norm
        Clipping of each leaf's c, None: none.
    base
        ``"adamw"``, ``"lion"`` or ``"shampoo"``.
    exact
        See `mars_correction`.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    InputError
        For values out of range, an unknown base, and a missing `grad_fn` with ``exact``.

    Notes
    -----
    All leaves are corrected; the authors' code leaves vectors to plain AdamW unless told otherwise.
    Memory: three numbers a parameter (AdamW), two (Lion), three (Shampoo). Cost: one gradient a step (two with
    ``exact``), five products of matrices for Shampoo. Defaults: those of the authors' code. When: language models.

    Examples
    --------
    >>> opt, x = mars(0.1), jnp.array([0.5])
    >>> print(f"{opt.update(x, opt.init(x), x)[0][0]:.3f}")
    -0.100
    """
    validation.one_of("adamw", "lion", "shampoo")("base", base)
    correction = mars_correction(gamma, b1, max_norm, exact=exact)
    adam = optax.scale_by_adam(b1, b2, eps)
    if base == "adamw":
        direction = adam
    elif base == "lion":
        direction = _average(b1, jnp.sign)
    else:

        def kinds(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: "matrix" if x.ndim == 2 else "other", tree)

        direction = optax.partition({"matrix": _average(b1, _orthogonal), "other": adam}, kinds)
    return descend(optax.chain(correction, direction), learning_rate, weight_decay)


def _average(b1: Any, map: Any) -> optax.GradientTransformationExtraArgs:
    """A map of the first moment."""

    def update(grads: PyTree, state: MomentState, params: Any = None, **_: Any) -> tuple[PyTree, MomentState]:
        m = moment(state.moment, grads, at(b1, state.count))
        return jax.tree.map(map, m), MomentState(after(state.count), m)

    return rule(lambda params: MomentState(counter(), zeros(params)), update)


def _orthogonal(m: Array) -> Array:
    """Near to the polar factor of m, times √max(1, rows/columns), by five Newton-Schulz steps of order five."""
    rows, columns = m.shape
    size = norm(m)
    x = m / jnp.where(size > 0, size, 1)
    x = x.T if rows > columns else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if rows > columns else x
    return x * max(1.0, rows / columns) ** 0.5
