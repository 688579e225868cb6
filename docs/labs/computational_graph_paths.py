"""The gradient as a sum over paths of the computational graph, beside one reverse pass.

Every operation is a node, and every edge carries the local derivative of its head with respect to its tail. The
derivative of the output with respect to an input is the sum, over all paths between them, of the products of the edges'
derivatives (Bauer's formula). The number of paths grows exponentially with the depth; reverse accumulation gets the
same number by visiting each edge once. Source: F. L. Bauer, BIT 14 (1974); Griewank and Walther, "Evaluating
Derivatives" (2008), chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np


@dataclass
class Graph:
    """Nodes in the order of evaluation; ``edges[i]`` lists (tail, local derivative) of node i."""

    values: list[float] = field(default_factory=list)
    edges: list[list[tuple[int, float]]] = field(default_factory=list)

    def node(self, value: float, *incoming: tuple[int, float]) -> Variable:
        """Record one operation."""
        self.values.append(value)
        self.edges.append(list(incoming))
        return Variable(self, len(self.values) - 1)

    def adjacency(self) -> np.ndarray:
        """Number of edges from tail to head: A[tail, head]."""
        matrix = np.zeros((len(self.values),) * 2, dtype=np.int64)
        for head, incoming in enumerate(self.edges):
            for tail, _ in incoming:
                matrix[tail, head] += 1
        return matrix


@dataclass(frozen=True)
class Variable:
    """A node that computes."""

    graph: Graph
    index: int

    @property
    def value(self) -> float:
        """Its number."""
        return self.graph.values[self.index]

    def __add__(self, other: Variable) -> Variable:
        return self.graph.node(self.value + other.value, (self.index, 1.0), (other.index, 1.0))

    def __mul__(self, other: Variable) -> Variable:
        return self.graph.node(self.value * other.value, (self.index, other.value), (other.index, self.value))

    def sin(self) -> Variable:
        """Sine."""
        return self.graph.node(math.sin(self.value), (self.index, math.cos(self.value)))

    def exp(self) -> Variable:
        """Exponential."""
        return self.graph.node(math.exp(self.value), (self.index, math.exp(self.value)))


def paths(graph: Graph, source: int, sink: int) -> list[float]:
    """The product of local derivatives along every path from `source` to `sink`."""
    if sink == source:
        return [1.0]
    return [d * product for tail, d in graph.edges[sink] for product in paths(graph, source, tail)]


def reverse_pass(graph: Graph, sink: int) -> tuple[list[float], int]:
    """dL/d(node) for every node, and the number of edges that were visited."""
    adjoint, visited = [0.0] * len(graph.values), 0
    adjoint[sink] = 1.0
    for head in range(sink, -1, -1):
        for tail, d in graph.edges[head]:
            adjoint[tail] += adjoint[head] * d
            visited += 1
    return adjoint, visited


def count_by_powers(graph: Graph, source: int, sink: int) -> int:
    """The number of paths as an entry of I + A + A² + ... (A is nilpotent: the graph has no cycle)."""
    total, power = 0, np.eye(len(graph.values), dtype=np.int64)
    while power.any():
        total += int(power[source, sink])
        power = power @ graph.adjacency()
    return total


def run(function: Callable, x: list[float]) -> dict:
    """Build the graph of ``function(*x)``; differentiate it both ways."""
    graph = Graph()
    inputs = [graph.node(value) for value in x]
    sink = function(*inputs).index
    by_path = [paths(graph, i.index, sink) for i in inputs]
    adjoint, visited = reverse_pass(graph, sink)
    return {
        "value": graph.values[sink],
        "sums": [sum(p) for p in by_path],
        "counts": [len(p) for p in by_path],
        "powers": [count_by_powers(graph, i.index, sink) for i in inputs],
        "reverse": [adjoint[i.index] for i in inputs],
        "visited": visited,
        "edges": sum(map(len, graph.edges)),
    }


def example(x, y):
    """A function with shared subexpressions, for numbers of this file and of JAX alike."""
    u = x * y
    v = _sin(u) + x
    return v * v * _exp(u * x) + u


def ladder(depth: int) -> Callable:
    """x + sin x, repeated: two edges a rung and so 2^depth paths."""

    def function(x):
        for _ in range(depth):
            x = x + _sin(x)
        return x

    return function


def _sin(x):
    return x.sin() if isinstance(x, Variable) else jnp.sin(x)


def _exp(x):
    return x.exp() if isinstance(x, Variable) else jnp.exp(x)


def main() -> dict:
    """Numbers for the example, and path against edge counts for a ladder."""
    point = [0.7, -1.3]
    found = run(example, point)
    with jax.enable_x64(True):
        found["jax"] = [float(g) for g in jax.grad(example, (0, 1))(*map(jnp.asarray, point))]
    rungs = {depth: run(ladder(depth), [0.3]) for depth in range(1, 11)}
    found["ladder"] = {depth: (r["counts"][0], r["visited"]) for depth, r in rungs.items()}
    return found


if __name__ == "__main__":
    numbers = main()
    for way in ("sums", "reverse", "jax"):
        print(f"{way:8s}", numbers[way])
    print("paths   ", numbers["counts"], "by adjacency powers", numbers["powers"])
    for depth, (n_paths, n_edges) in numbers["ladder"].items():
        print(f"depth {depth:2d}: {n_paths:5d} paths, {n_edges:3d} edges in one reverse pass")
