"""Symbolic differentiation by rules, and why its expressions swell.

An expression is a tree: a number, the name ``"x"``, or a tuple (operation, arguments). `derivative` applies the rules
of calculus, `simplified` folds constants and drops neutral elements. The product rule copies both factors, so that the
derivative of a nested product has exponentially many nodes in its depth, while automatic differentiation shares the
intermediate values and stays proportional to the program. Source: Griewank and Walther, "Evaluating Derivatives"
(2008), chapter 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import sympy

Expression = float | str | tuple

X = "x"


def derivative(e: Expression) -> Expression:
    """d/dx by the rules, not simplified."""
    match e:
        case str():
            return 1.0
        case float() | int():
            return 0.0
        case ("+", a, b):
            return ("+", derivative(a), derivative(b))
        case ("*", a, b):
            return ("+", ("*", derivative(a), b), ("*", a, derivative(b)))
        case ("/", a, b):
            return ("/", ("+", ("*", derivative(a), b), ("*", -1.0, ("*", a, derivative(b)))), ("*", b, b))
        case ("sin", a):
            return ("*", ("cos", a), derivative(a))
        case ("cos", a):
            return ("*", ("*", -1.0, ("sin", a)), derivative(a))
        case ("exp", a):
            return ("*", ("exp", a), derivative(a))
        case ("log", a):
            return ("/", derivative(a), a)
    raise ValueError(f"e: found {e!r}, expected an expression")


def simplified(e: Expression) -> Expression:
    """The same function with constants folded and 0 + a, 1·a, 0·a, a/1 and 0/a reduced."""
    if not isinstance(e, tuple):
        return e
    op, *arguments = (e[0], *map(simplified, e[1:]))
    match (op, *arguments):
        case ("+", float(a), float(b)):
            return a + b
        case ("*", float(a), float(b)):
            return a * b
        case ("+", 0.0, a) | ("+", a, 0.0) | ("*", 1.0, a) | ("*", a, 1.0) | ("/", a, 1.0):
            return a
        case ("*", 0.0, _) | ("*", _, 0.0) | ("/", 0.0, _):
            return 0.0
    return (op, *arguments)


def nodes(e: Expression) -> int:
    """Size of the tree."""
    return 1 + sum(map(nodes, e[1:])) if isinstance(e, tuple) else 1


def evaluate(e: Expression, x, of=jnp):
    """Its value, with the functions of JAX or of SymPy."""
    match e:
        case str():
            return x
        case float() | int():
            return e
        case ("+", a, b):
            return evaluate(a, x, of) + evaluate(b, x, of)
        case ("*", a, b):
            return evaluate(a, x, of) * evaluate(b, x, of)
        case ("/", a, b):
            return evaluate(a, x, of) / evaluate(b, x, of)
    return getattr(of, e[0])(evaluate(e[1], x, of))


def nested_product(depth: int) -> Expression:
    """P_0 = sin x, P_{k+1} = P_k · P_k: as a tree it doubles at each level, as a program it is one line a level."""
    e: Expression = ("sin", X)
    for _ in range(depth):
        e = ("*", e, e)
    return e


def nested_program(depth: int):
    """The same function as a program that shares its intermediate value."""

    def function(x):
        y = jnp.sin(x)
        for _ in range(depth):
            y = y * y
        return y

    return function


def operations(function) -> int:
    """Number of primitive operations that JAX runs for it."""
    return len(jax.make_jaxpr(function)(0.5).jaxpr.eqns)


EXAMPLES: dict[str, Expression] = {
    "polynomial": ("+", ("*", 3.0, ("*", X, X)), ("*", -2.0, X)),
    "product": ("*", ("sin", X), ("exp", ("*", X, X))),
    "quotient": ("/", ("log", ("+", 2.0, X)), ("+", 1.0, ("*", X, X))),
    "chain": ("cos", ("exp", ("sin", ("*", 2.0, X)))),
    "constant": ("*", 0.0, ("exp", X)),
}


def main(depths: range = range(1, 8)) -> dict:
    """Derivatives of the examples, and node counts against the operations of automatic differentiation."""
    x = sympy.Symbol("x")
    derivatives = {}
    for name, e in EXAMPLES.items():
        ours = simplified(derivative(e))
        theirs = sympy.diff(evaluate(e, x, sympy), x)
        derivatives[name] = {
            "expression": ours,
            "symbolic": evaluate(ours, x, sympy),
            "sympy": theirs,
            "nodes": (nodes(e), nodes(derivative(e)), nodes(ours)),
        }
    swell = {}
    for depth in depths:
        program = nested_program(depth)
        swell[depth] = {
            "nodes": nodes(simplified(derivative(nested_product(depth)))),
            "program": operations(program),
            "ad": operations(jax.grad(program)),
        }
    return {"derivatives": derivatives, "swell": swell}


if __name__ == "__main__":
    numbers = main()
    for name, row in numbers["derivatives"].items():
        print(f"{name:10s} {row['symbolic']}   nodes {row['nodes']}")
    for depth, row in numbers["swell"].items():
        print(f"depth {depth}: {row['nodes']:6d} nodes; AD {row['ad']:3d} operations, the program {row['program']}")
