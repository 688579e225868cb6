"""Interval arithmetic on JAX functions: a box in, a box that holds every value of the function over it out.

The function is traced once and its primitives are evaluated on (low, high) pairs, each result widened by its
rounding. A primitive without a rule is refused by name, never guessed at. Widths grow with every reuse of a variable:
exact for one operation, pessimistic for deep compositions; splitting the box sharpens it. Cost: about four
evaluations of the function. Source: Moore, Kearfott & Cloud, "Introduction to Interval Analysis" (2009), chapters 3
to 5; Rump, BIT 39 (1999) 534-554, for products of interval matrices by midpoint and radius.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from corollary.core.errors import InputError

Box = tuple[Array, Array]  # low <= high, entry by entry

LONGEST = 64  # passes of a loop that are written out
CALLS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat",
    "checkpoint",
}  # fmt: skip
ULPS = 8.0  # what an operation, or an elementary function of XLA, may be off by


def interval(function: Callable[..., Any], low: Array, high: Array) -> Box:
    """Bounds of ``function`` over the box [low, high], entry by entry.

    Raises
    ------
    InputError
        For a primitive that has no rule, named in the message.
    """
    closed = jax.make_jaxpr(function)(low)
    (out,) = _run(closed.jaxpr, closed.consts, [(low, high)])
    return out


def magnitude(box: Box) -> Array:
    """max(|low|, |high|)."""
    return jnp.maximum(jnp.abs(box[0]), jnp.abs(box[1]))


def _run(jaxpr: Any, consts: Any, inputs: list[Box]) -> list[Box]:
    known: dict[Any, Box] = {}

    def read(atom: Any) -> Box:
        if isinstance(atom, jex.Literal):
            value = jnp.asarray(atom.val, atom.aval.dtype)  # type: ignore[attr-defined]
            return value, value
        return known[atom]

    known.update(zip(jaxpr.constvars, [(jnp.asarray(c), jnp.asarray(c)) for c in consts], strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        boxes = [read(atom) for atom in equation.invars]
        outs = _apply(equation, boxes)
        known.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, boxes: list[Box]) -> list[Box]:
    primitive, params = equation.primitive, equation.params
    name, exact = primitive.name, all(low is high for low, high in boxes)
    whole = not any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (*equation.invars, *equation.outvars))
    if exact and (whole or not boxes or name in STRUCTURAL):
        out = primitive.bind(*[low for low, _ in boxes], **params)
        return [(o, o) for o in out] if primitive.multiple_results else [(out, out)]
    if name in ("eq", "ne") and equation.invars[0] is equation.invars[1]:  # a test for NaN, which no box holds
        truth = jnp.full(boxes[0][0].shape, name == "eq")
        return [(truth, truth)]
    if name in RULES:
        return [RULES[name](boxes, params)]
    if name == "scan":
        return _unrolled(params, boxes)
    if name in CALLS:
        return _inner(next(params[inner] for inner in ("jaxpr", "call_jaxpr", "fun_jaxpr") if inner in params), boxes)
    if name in STRUCTURAL:  # moves entries about, or rises with them: the same on both ends
        low, high = (primitive.bind(*[box[end] for box in boxes], **params) for end in (0, 1))
        return list(zip(low, high, strict=True)) if primitive.multiple_results else [(low, high)]
    raise InputError(f"f: found the primitive {name!r}, expected operations that have an interval rule")


def _inner(sub: Any, boxes: list[Box]) -> list[Box]:
    closed = hasattr(sub, "consts")
    return _run(sub.jaxpr if closed else sub, sub.consts if closed else [], boxes)


def _unrolled(params: Any, boxes: list[Box]) -> list[Box]:
    """A loop of fixed length, pass by pass."""
    length, a, b = params["length"], params["num_consts"], params["num_consts"] + params["num_carry"]
    if length > LONGEST:
        raise InputError(f"f: found a loop of {length} passes, expected at most {LONGEST}")
    carry, passes = boxes[a:b], {}
    for i in reversed(range(length)) if params["reverse"] else range(length):
        here = [_entry(box, i) for box in boxes[b:]]
        out = _inner(params["jaxpr"], [*boxes[:a], *carry, *here])
        carry, passes[i] = out[: b - a], out[b - a :]
    ends = zip(*(passes[i] for i in range(length)), strict=True)
    return [*carry, *((jnp.stack([e[0] for e in end]), jnp.stack([e[1] for e in end])) for end in ends)]


def _entry(box: Box, i: int) -> Box:
    low, high = box
    entry = low[i]
    return entry, entry if low is high else high[i]  # what is exact stays the same object


def _wide(low: Array, high: Array, slack: Any = 0.0) -> Box:
    """Widened by the rounding of the result (and a slack in the same units); ∞ − ∞ says nothing."""
    eps = ULPS * float(jnp.finfo(low.dtype).eps)
    tiny = float(jnp.finfo(low.dtype).tiny)
    low, high = jnp.where(jnp.isnan(low), -jnp.inf, low), jnp.where(jnp.isnan(high), jnp.inf, high)
    return low - eps * jnp.abs(low) - tiny - slack, high + eps * jnp.abs(high) + tiny + slack


def _rising(function: Callable[[Array], Array], floor: float = -np.inf, ceiling: float = np.inf) -> Any:
    """A rule for a function that never falls, with values in [floor, ceiling]."""

    def rule(boxes: list[Box], _: Any) -> Box:
        low, high = _wide(function(boxes[0][0]), function(boxes[0][1]))
        return jnp.clip(low, floor, ceiling), jnp.clip(high, floor, ceiling)

    return rule


def _hull(*candidates: Array) -> Box:
    low, high = candidates[0], candidates[0]
    for c in candidates[1:]:
        low, high = jnp.minimum(low, c), jnp.maximum(high, c)
    return low, high


def _product(a: Box, b: Box) -> Box:
    # 0·∞ is a NaN where an end is infinite: such a box says nothing, and stays unbounded.
    low, high = _hull(*(x * y for x in a for y in b))
    return _wide(jnp.where(jnp.isnan(low), -jnp.inf, low), jnp.where(jnp.isnan(high), jnp.inf, high))


def _reciprocal(box: Box) -> Box:
    low, high = box
    safe = (low > 0) | (high < 0)
    a, b = 1 / jnp.where(safe, high, 1), 1 / jnp.where(safe, low, 1)
    low, high = _wide(a, b)
    return jnp.where(safe, low, -jnp.inf), jnp.where(safe, high, jnp.inf)


def _absolute(box: Box) -> Box:
    low, high = box
    across = (low <= 0) & (high >= 0)
    return jnp.where(across, 0, jnp.minimum(jnp.abs(low), jnp.abs(high))), magnitude(box)


def _power(box: Box, exponent: int) -> Box:
    if exponent < 0:
        return _reciprocal(_power(box, -exponent))
    base = _absolute(box) if exponent % 2 == 0 else box
    low, high = _wide(lax.integer_pow(base[0], exponent), lax.integer_pow(base[1], exponent))
    return (jnp.maximum(low, 0), high) if exponent % 2 == 0 else (low, high)


def _real_power(boxes: list[Box], _: Any) -> Box:
    """x^y for x > 0, monotone in either: the extremes lie at corners. Elsewhere nothing is known."""
    (low, high), exponents = boxes
    positive = low > 0
    ends = (jnp.where(positive, low, 1), jnp.where(positive, high, 1))
    a, b = _wide(*_hull(*(x**y for x in ends for y in exponents)))
    return jnp.where(positive, a, -jnp.inf), jnp.where(positive, b, jnp.inf)


def _cosine(box: Box) -> Box:
    low, high = box
    turn = 2 * np.pi
    slack = 4 * float(jnp.finfo(low.dtype).eps) * (1 + magnitude(box))
    low, high = low - slack, high + slack
    top = jnp.floor(high / turn) * turn >= low  # holds a multiple of 2π
    bottom = jnp.floor((high - np.pi) / turn) * turn + np.pi >= low
    ends = _hull(jnp.cos(low), jnp.cos(high))
    a, b = _wide(*ends)
    return jnp.clip(jnp.where(bottom, -1, a), -1, 1), jnp.clip(jnp.where(top, 1, b), -1, 1)


def _dot(boxes: list[Box], params: Any) -> Box:
    (al, ah), (bl, bh) = boxes
    dot = lambda x, y: lax.dot_general_p.bind(x, y, **params)  # noqa: E731
    am, bm = (al + ah) / 2, (bl + bh) / 2
    ar, br = jnp.maximum(ah - am, am - al), jnp.maximum(bh - bm, bm - bl)
    contracted = int(np.prod([al.shape[i] for i in params["dimension_numbers"][0][0]], dtype=int))
    middle, size = dot(am, bm), dot(jnp.abs(am) + ar, jnp.abs(bm) + br)
    radius = dot(jnp.abs(am), br) + dot(ar, jnp.abs(bm) + br)
    slack = (contracted + ULPS) * float(jnp.finfo(middle.dtype).eps) * size
    return middle - radius - slack, middle + radius + slack


def _sum(boxes: list[Box], params: Any) -> Box:
    (low, high) = boxes[0]
    add = lambda x: jnp.sum(x, axis=params["axes"])  # noqa: E731
    n = int(np.prod([low.shape[i] for i in params["axes"]], dtype=int))
    slack = n * float(jnp.finfo(low.dtype).eps) * add(magnitude(boxes[0])) if low.dtype.kind == "f" else 0
    return add(low) - slack, add(high) + slack


def _select(boxes: list[Box], _: Any) -> Box:
    (first, last), *cases = boxes
    if len(cases) != 2:
        raise InputError("f: found a choice of more than two cases, expected two")
    (a, b), (c, d) = cases
    never, always = ~last.astype(bool), first.astype(bool)
    low = jnp.where(never, a, jnp.where(always, c, jnp.minimum(a, c)))
    return low, jnp.where(never, b, jnp.where(always, d, jnp.maximum(b, d)))


def _less(boxes: list[Box], strict: bool) -> Box:
    """(surely, possibly) a < b."""
    (al, ah), (bl, bh) = boxes
    return (ah < bl, al < bh) if strict else (ah <= bl, al <= bh)


def _sign(boxes: list[Box], _: Any) -> Box:
    # At a kink both one-sided slopes count: sign(0) is taken as all of [−1, 1].
    low, high = boxes[0]
    return jnp.where(low > 0, 1, -1).astype(low.dtype), jnp.where(high < 0, -1, 1).astype(low.dtype)


def _both(function: Callable[[Array, Array], Array]) -> Any:
    return lambda boxes, _: (function(boxes[0][0], boxes[1][0]), function(boxes[0][1], boxes[1][1]))


STRUCTURAL = {
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "concatenate", "slice", "rev", "copy",
    "convert_element_type", "stop_gradient", "reduce_max", "reduce_min", "pad", "split", "max", "min",
}  # fmt: skip

RULES: dict[str, Callable[[list[Box], Any], Box]] = {
    "add": lambda b, _: _wide(b[0][0] + b[1][0], b[0][1] + b[1][1]),
    "add_any": lambda b, _: _wide(b[0][0] + b[1][0], b[0][1] + b[1][1]),
    "sub": lambda b, _: _wide(b[0][0] - b[1][1], b[0][1] - b[1][0]),
    "neg": lambda b, _: (-b[0][1], -b[0][0]),
    "mul": lambda b, _: _product(*b),
    "div": lambda b, _: _product(b[0], _reciprocal(b[1])),
    "abs": lambda b, _: _absolute(b[0]),
    "sign": _sign,
    "square": lambda b, _: _power(b[0], 2),
    "integer_pow": lambda b, p: _power(b[0], p["y"]),
    "pow": _real_power,
    "sqrt": _rising(lambda x: jnp.sqrt(jnp.maximum(x, 0)), 0.0),
    "rsqrt": lambda b, _: _reciprocal(_rising(lambda x: jnp.sqrt(jnp.maximum(x, 0)), 0.0)([b[0]], None)),
    "exp": _rising(jnp.exp, 0.0),
    "exp2": _rising(jnp.exp2, 0.0),
    "expm1": _rising(jnp.expm1, -1.0),
    "log": _rising(lambda x: jnp.log(jnp.maximum(x, 0))),
    "log1p": _rising(lambda x: jnp.log1p(jnp.maximum(x, -1))),
    "tanh": _rising(jnp.tanh, -1.0, 1.0),
    "logistic": _rising(jax.nn.sigmoid, 0.0, 1.0),
    "erf": _rising(jax.scipy.special.erf, -1.0, 1.0),
    "atan": _rising(jnp.arctan),
    "sinh": _rising(jnp.sinh),
    "asinh": _rising(jnp.arcsinh),
    "cosh": lambda b, _: _wide(*(jnp.cosh(end) for end in _absolute(b[0]))),
    "cos": lambda b, _: _cosine(b[0]),
    "sin": lambda b, _: _cosine(_wide(b[0][0] - np.pi / 2, b[0][1] - np.pi / 2)),
    "dot_general": _dot,
    "reduce_sum": _sum,
    "select_n": _select,
    "lt": lambda b, _: _less(b, True),
    "le": lambda b, _: _less(b, False),
    "gt": lambda b, _: _less(b[::-1], True),
    "ge": lambda b, _: _less(b[::-1], False),
    "and": _both(jnp.logical_and),
    "or": _both(jnp.logical_or),
    "not": lambda b, _: (~b[0][1], ~b[0][0]),
    "eq": lambda b, _: (
        (b[0][0] == b[0][1]) & (b[1][0] == b[1][1]) & (b[0][0] == b[1][0]),
        (b[0][0] <= b[1][1]) & (b[1][0] <= b[0][1]),
    ),
    "ne": lambda b, _: RULES["not"]([RULES["eq"](b, None)], None),
}
