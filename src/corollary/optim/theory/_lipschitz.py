"""The Lipschitz constant of a map between metric spaces: from below by samples, from above by interval arithmetic.

Below: the largest ratio of distances over pairs of samples; never more than the constant.
Above: over a box the Jacobian is enclosed entry by entry, and the norm of the entries' magnitudes bounds it: a proof
for a continuous function, exact for one operation, loose for deep compositions. Cost: n² distances; a Jacobian a piece
of the box. Source: Moore, Kearfott & Cloud (2009), chapter 6 (the mean value form); Rademacher's theorem for functions
with kinks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import finite, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._intervals import Box, interval, magnitude

Metric = Literal["1", "2", "inf"] | Callable[[Any, Any], Any]
MOST_PIECES = 4096
CONTINUOUS = Assumption("f is continuous over the box (a jump has no slope, and is not seen)")
SMOOTH = Assumption("∇f is continuous over the box (a kink has no curvature, and is not seen)")
MOORE = "Moore, Kearfott & Cloud, Introduction to Interval Analysis (2009), chapter 6"


@follows_input
def lipschitz_estimate(
    f: Callable[[Any], Any],
    points: Any = None,
    *,
    region: tuple[Any, Any] | None = None,
    splits: int = 1,
    metric_in: Metric = "2",
    metric_out: Metric = "2",
) -> Solution:
    """A lower bound and, over a box, an upper bound of the Lipschitz constant of f.

    Use it to choose step lengths, or to certify robustness of a small network. Cost: O(n²) distances between n
    points; a Jacobian by interval arithmetic for each of splits^d pieces.

    Parameters
    ----------
    f
        A map from vectors (d,) (or scalars) to an array.
    points
        (n, d) (or (n,)) samples for the lower bound; the corners' diagonal of `region`, 32 points, if left out.
    region
        (low, high), the corners of a box: for the upper bound.
    splits
        Pieces along each axis of the box: more are sharper.
    metric_in, metric_out
        ``"1"``, ``"2"``, ``"inf"`` for the norms, or a function of two points (then there is no upper bound).

    Returns
    -------
    Solution
        ``value``: the lower bound; ``stats``: ``lower``, ``upper`` (infinite where nothing is known), ``pair`` (2, d)
        the points that show the lower bound.

    Raises
    ------
    InputError
        For a function with operations that have no interval rule, and settings that do not fit.

    Notes
    -----
    Certificate ``enclosure`` (exact, for a continuous f: a jump has no slope), with a `region` and norms:
    lower ≤ L ≤ upper.

    Examples
    --------
    >>> found = lipschitz_estimate(jnp.sin, region=(-4.0, 4.0))
    >>> round(float(found.stats["upper"]), 4), bool(0.9 < found.stats["lower"] <= 1.0)
    (1.0, True)
    """
    validation.integer(1)("splits", splits)
    for name, metric in (("metric_in", metric_in), ("metric_out", metric_out)):
        if not callable(metric):
            validation.one_of("1", "2", "inf")(name, metric)
    box = None if region is None else checked_region(region)
    if points is None:
        if box is None:
            raise InputError("points: found None and no region, expected samples or a box")
        share = jnp.linspace(0, 1, 32).astype(box[0].dtype).reshape(-1, *[1] * box[0].ndim)
        points = box[0] + share * (box[1] - box[0])
    else:
        points = finite("points", points)
        if not isinstance(points, jax.Array) or points.ndim not in (1, 2) or points.shape[0] < 2:
            raise InputError("points: found another shape, expected (n, d) or (n,) with n >= 2")
        if box is not None:
            inside("points", points, box)
    lower, pair = _below(f, points, metric_in, metric_out)
    stats = {"lower": lower, "upper": jnp.full_like(lower, jnp.inf), "pair": pair}
    if box is None or callable(metric_in) or callable(metric_out):
        return Solution(lower, {}, stats=stats)
    if metric_in != metric_out:
        raise InputError(f"metric_out: found {metric_out!r}, expected {metric_in!r} as metric_in (for an upper bound)")
    stats["upper"] = bound_over(lambda x: jnp.atleast_1d(f(x)), box, splits, metric_in)
    certificate = Certificate("lower <= L <= upper", lower, stats["upper"], "exact", MOORE, assumptions=(CONTINUOUS,))
    return Solution(lower, {"enclosure": certificate}, stats=stats)


def checked_region(region: Any) -> Box:
    """(low, high), finite arrays of one shape with low <= high."""
    if not isinstance(region, tuple | list) or len(region) != 2:
        raise InputError("region: found no pair, expected (low, high)")
    low, high = finite("region", jnp.asarray(region[0])), finite("region", jnp.asarray(region[1]))
    high = high.astype(low.dtype)
    if low.shape != high.shape or low.ndim > 1:
        raise InputError(f"region: found shapes {low.shape}, {high.shape}, expected a box of vectors")
    if not any(isinstance(end, Tracer) for end in (low, high)) and not bool(jnp.all(low <= high)):
        raise InputError("region: found low > high, expected low <= high")
    return low, high


def inside(name: str, points: Any, box: Box) -> None:
    """Refuse points outside the box that a bound is for; tracers pass."""
    if any(isinstance(a, Tracer) for a in (points, *box)):
        return
    if points.shape[1:] != box[0].shape:
        raise InputError(f"{name}: found shape {points.shape}, expected points like the region's {box[0].shape}")
    if not bool(jnp.all((points >= box[0]) & (points <= box[1]))):
        raise InputError(
            f"{name}: found points outside region, expected all inside (the upper bound is for the region)"
        )


def pieces(box: Box, splits: int) -> Box:
    """The box cut into splits^d pieces, along the leading axis."""
    low, high = box
    d = max(low.size, 1)
    if splits**d > MOST_PIECES:
        raise InputError(f"splits: found {splits} in {d} dimensions, expected at most {MOST_PIECES} pieces in all")
    corner = jnp.asarray(np.stack(np.meshgrid(*[np.arange(splits)] * d, indexing="ij"), -1).reshape(-1, d), low.dtype)
    corner = corner.reshape(-1, *low.shape)
    width = (high - low) / splits
    return low + corner * width, jnp.where(corner == splits - 1, high, low + (corner + 1) * width)


def jacobian_over(f: Callable[[Any], Any], box: Box, splits: int) -> Box:
    """The Jacobian (outputs, inputs) of f, enclosed over each piece of the box: (pieces, m, d)."""
    size, out = max(box[0].size, 1), jax.eval_shape(f, box[0]).size

    def one(low: Array, high: Array) -> Box:
        J = interval(jax.jacfwd(f), low, high)
        return J[0].reshape(out, size), J[1].reshape(out, size)

    return jax.jit(jax.vmap(one))(*pieces(box, splits))


def bound_over(f: Callable[[Any], Any], box: Box, splits: int, metric: str) -> Scalar:
    """The largest ‖J‖ over the box, bounded by the norm of the entries' magnitudes (norms are monotone in them)."""
    size = magnitude(jacobian_over(f, box, splits))
    return jnp.max(jax.vmap(lambda m: _operator_norm(m, metric, upwards=True))(size))


def _operator_norm(m: Float[Array, "m d"], metric: str, upwards: bool = False) -> Scalar:
    match metric:
        case "1":
            value = jnp.max(jnp.sum(jnp.abs(m), axis=0))
        case "inf":
            value = jnp.max(jnp.sum(jnp.abs(m), axis=1))
        case _:
            broken = ~jnp.all(jnp.isfinite(m))
            value = jnp.linalg.norm(jnp.where(broken, 0, m), 2)
            value = jnp.where(broken, jnp.inf, value)
    noise = 8 * max(m.shape) * float(jnp.finfo(m.dtype).eps)
    return value * (1 + noise) if upwards else value * (1 - noise)


@eqx.filter_jit
def _below(f: Callable[[Any], Any], points: Array, metric_in: Metric, metric_out: Metric) -> tuple[Scalar, Array]:
    images = jax.vmap(f)(points)
    eps = float(jnp.finfo(points.dtype).eps)

    def distances(metric: Metric, x: Array) -> Float[Array, "n n"]:
        if callable(metric):
            return jax.vmap(lambda a: jax.vmap(lambda b: jnp.asarray(metric(a, b)).astype(points.dtype))(x))(x)
        x = x.reshape(x.shape[0], -1)
        gap = x[:, None] - x
        match metric:
            case "1":
                return jnp.sum(jnp.abs(gap), -1)
            case "inf":
                return jnp.max(jnp.abs(gap), -1)
            case _:
                return norm(gap, -1)

    apart, moved = distances(metric_in, points), distances(metric_out, images)
    flat = jnp.abs(images.reshape(images.shape[0], -1)).sum(-1)
    noise = 8 * eps * (flat[:, None] + flat + moved)  # a difference of rounded values proves no more than this
    ratio = jnp.where(apart > 0, jnp.maximum(moved - noise, 0) / jnp.where(apart > 0, apart, 1), 0)
    best = jnp.unravel_index(jnp.argmax(ratio), ratio.shape)
    return ratio[best] * (1 - 16 * eps), jnp.stack([points[best[0]], points[best[1]]])
