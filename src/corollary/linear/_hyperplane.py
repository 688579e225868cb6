"""The geometry of a linear classifier: scores, signed distances, projections and the margin.

The hyperplane is {x : ⟨w, x⟩ + b = 0}. In padded form a point is (x, 1), the weights (w, b): the score is one
inner product. Cost: O(n p). Source: Shalev-Shwartz & Ben-David, Understanding Machine Learning (2014), Claim 15.1.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import precision, validation
from corollary.core.errors import InputError

Real = Float[Array | np.ndarray, "..."]


class Hyperplane(eqx.Module):
    """What a hyperplane says of some points; made by `hyperplane`."""

    scores: Real  # ⟨w, x⟩ + b, (n,)
    signs: Real  # ±1, and −1 at score 0, (n,)
    distances: Real  # signed, scores/‖w‖, (n,)
    projections: Real  # x − distance · w/‖w‖, (n, p)
    margin: Real | None  # min y (⟨w, x⟩ + b)/‖w‖; None without y


@precision.follows_input
def hyperplane(w: Any, b: Any, X: Any, y: Any = None) -> Hyperplane:
    """Scores, signs, signed distances and projections of points, and the margin at which (w, b) separates them.

    Use it to read a linear classifier; nothing changes when (w, b) is multiplied by a positive number, but the scores.
    The margin is positive exactly where every point lies strictly on its own side; a point on the hyperplane counts as
    an error, whichever its class. The largest margin is 1/‖w*‖ of the hard-margin support vector machine. Cost O(n p).

    Parameters
    ----------
    w
        Normal, shape (p,), not zero; or (p + 1,) padded with the offset last, and then ``b=None``.
    b
        Offset, a number or None.
    X
        Points, shape (n, p).
    y
        Classes ±1, shape (n,).

    Returns
    -------
    Hyperplane
        ``scores``, ``signs``, ``distances``, ``projections``, ``margin``.

    Raises
    ------
    InputError
        For a zero normal, mismatched shapes or classes other than ±1.

    Examples
    --------
    >>> plane = hyperplane(np.array([3.0, 4.0]), -5.0, np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([1, -1]))
    >>> plane.distances.tolist(), float(plane.margin)
    ([4.0, -1.0], 1.0)
    """
    w, X = validation.vector("w", w), validation.matrix("X", X)
    if b is None:
        w, b = w[:-1], w[-1]
    elif not isinstance(b, jax.Array):
        b = jnp.asarray(validation.number()("b", b), w.dtype)
    w, b, X = precision.common_float(w, b, X)
    if w.size != X.shape[1]:
        raise InputError(f"w: found {w.size} entries, expected {X.shape[1]}, the columns of X")
    if not isinstance(w, Tracer) and not np.any(np.asarray(w)):
        raise InputError("w: found only zeros, expected a normal vector")
    top = jnp.max(jnp.abs(w))
    norm = top * jnp.linalg.norm(w / top)  # neither overflows nor underflows
    unit = w / norm
    distances = X @ unit + b / norm
    scores = X @ w + b
    margin = None
    if y is not None:
        y = validation.vector("y", y)
        validation.same_length("X", X, "y", y)
        if not isinstance(y, Tracer) and not np.all(np.abs(np.asarray(y)) == 1):
            raise InputError("y: found values other than -1 and +1, expected classes -1 and +1")
        margin = jnp.min(y.astype(w.dtype) * distances)
    return Hyperplane(
        scores, jnp.where(scores > 0, 1, -1).astype(w.dtype), distances, X - distances[:, None] * unit, margin
    )
