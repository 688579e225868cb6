"""How many linear pieces a ReLU network has on a segment, a polygon or a box, counted exactly.

A ReLU network is affine on each region where the signs of all its pre-activations are fixed. The regions are split
neuron by neuron: on a segment by its breakpoints, on a polygon by cutting it along the line where the neuron (affine on
the region) vanishes, in a box of more dimensions by linear programs that decide which side of the hyperplane a region
meets. When: expressivity, depth against width. O(regions·neurons) cuts; the box solves two linear programs for each.

One hidden layer of n neurons in general position cuts R^d into Σ_{j≤d} C(n, j) regions (Zaslavsky); a box need not meet
all. Distinct activation patterns are counted: neighbours with equal slopes count twice.
Sources: Zaslavsky (1975); Montúfar, Pascanu, Cho & Bengio, "On the number of linear regions" (2014), theorem 5.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import equinox as eqx
import jax
import numpy as np
from scipy.optimize import linprog

from corollary.core.errors import InputError

TOLERANCE = 1e-10  # of the domain's size: thinner regions are rounding


def linear_regions(network: Any, domain: Any) -> int:
    """The number of activation regions of a ReLU network that meet a domain, by exact splitting. O(regions·neurons).

    Parameters
    ----------
    network
        `equinox.nn.MLP` with ReLU (or a list of pairs (W, b), a ReLU after all but the last).
    domain
        (2, d): a segment's ends; (k, 2) with k ≥ 3: a convex polygon's corners in order, in the plane; or a pair
        (low, high) of vectors of d numbers wrapped as ``("box", low, high)``.

    Returns
    -------
    int

    Raises
    ------
    InputError
        For a domain of another shape or dimension than the network's input, a polygon that is not convex, or another
        activation.

    Source
    ------
    Montúfar et al. (2014), §2; Zaslavsky (1975).

    Examples
    --------
    >>> import numpy as np
    >>> W, b = np.ones((3, 1)), np.array([0.0, -1.0, -2.0])
    >>> linear_regions([(W, b), (np.ones((1, 3)), np.zeros(1))], np.array([[-1.0], [3.0]]))
    4
    """
    layers = _hidden(network)
    d = layers[0][0].shape[1] if layers else None
    if isinstance(domain, tuple) and len(domain) == 3 and domain[0] == "box":
        low, high = (np.atleast_1d(np.asarray(v, float)) for v in domain[1:])
        if low.shape != high.shape or low.ndim != 1 or not (low < high).all() or (d is not None and len(low) != d):
            raise InputError(f"domain: found a box from {low} to {high}, expected {d} increasing pairs")
        return _box(layers, low, high)
    corners = np.asarray(domain, float)
    if corners.ndim != 2 or len(corners) < 2 or (d is not None and corners.shape[1] != d):
        raise InputError(f"domain: found shape {corners.shape}, expected (2, {d}) or the corners of a polygon (k, 2)")
    if len(corners) == 2:
        return _segment(layers, *corners)
    if corners.shape[1] != 2:
        raise InputError(f"domain: found {corners.shape[0]} corners in {corners.shape[1]} dimensions, expected a plane")
    if not _convex(corners):
        raise InputError(f"domain: found corners {corners.tolist()}, expected a convex polygon's, in order")
    return _polygon(layers, corners)


def zaslavsky(neurons: int, dimension: int) -> int:
    """Σ_{j≤d} C(n, j): regions of n hyperplanes in general position. O(d).

    Parameters
    ----------
    neurons, dimension
        n and d.

    Source
    ------
    Zaslavsky, "Facing up to arrangements" (1975).

    Examples
    --------
    >>> zaslavsky(4, 2)
    11
    """
    return sum(math.comb(neurons, j) for j in range(dimension + 1))


def _hidden(network: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(W, b) of the hidden layers, in float64."""
    pairs = network
    if isinstance(network, eqx.nn.MLP):
        if network.activation not in (jax.nn.relu, inspect.signature(eqx.nn.MLP).parameters["activation"].default):
            raise InputError(f"network: found activation {network.activation!r}, expected jax.nn.relu")
        pairs = [(p.weight, np.zeros(p.weight.shape[0]) if p.bias is None else p.bias) for p in network.layers]
    return [(np.asarray(W, float), np.asarray(b, float)) for W, b in pairs][:-1]


def _segment(layers: Any, start: np.ndarray, end: np.ndarray) -> int:
    """Breakpoints layer by layer: between two of them every unit is affine in t."""
    ends = np.array([0.0, 1.0])

    def outputs(t: np.ndarray, depth: int) -> np.ndarray:
        z = start + t[:, None] * (end - start)
        for k, (W, b) in enumerate(layers[:depth]):
            z = z @ W.T + b
            z = z if k == depth - 1 else np.maximum(z, 0)
        return z

    for depth in range(1, len(layers) + 1):
        z = outputs(ends, depth)
        a, b = z[:-1], z[1:]
        crossing = a * b < 0
        share = np.where(crossing, a / np.where(crossing, a - b, 1.0), 0.0)
        points = (ends[:-1, None] + share * np.diff(ends)[:, None])[crossing]
        ends = np.sort(np.concatenate([ends, points]))
        ends = ends[np.append(True, np.diff(ends) > TOLERANCE)]
    return len(ends) - 1


def _convex(corners: np.ndarray) -> bool:
    """Whether the corners turn one way only, and once around."""
    sides = np.roll(corners, -1, 0) - corners
    after = np.roll(sides, -1, 0)
    turns = np.arctan2(sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0], np.sum(sides * after, 1))
    return bool(abs(abs(turns.sum()) - 2 * np.pi) < 1e-6 and ((turns > -1e-9).all() or (turns < 1e-9).all()))


def _polygon(layers: Any, corners: np.ndarray) -> int:
    """Pieces as (corners, A, c): on the piece the next layer's input is A x + c."""
    size = np.ptp(corners, axis=0).max()
    pieces = [(corners, np.eye(2), np.zeros(2))]
    for W, b in layers:
        cut = []
        for points, A, c in pieces:
            slopes, offsets = W @ A, W @ c + b
            parts = [points]
            for w, offset in zip(slopes, offsets, strict=True):
                parts = [side for part in parts for side in _cut(part, w, offset, size)]
            for part in parts:
                on = (slopes @ part.mean(0) + offsets) > 0
                cut.append((part, slopes * on[:, None], offsets * on))
        pieces = cut
    return len(pieces)


def _cut(points: np.ndarray, w: np.ndarray, offset: float, size: float) -> list[np.ndarray]:
    """The parts of a convex polygon on both sides of w·x + offset = 0; slivers are not counted."""
    value = points @ w + offset
    slack = TOLERANCE * np.linalg.norm(w) * size
    if (value >= -slack).all() or (value <= slack).all():
        return [points]
    sides: list[list[np.ndarray]] = [[], []]
    for k in range(len(points)):
        p, q, f, g = points[k - 1], points[k], value[k - 1], value[k]
        if f * g < 0:
            middle = p + (q - p) * (f / (f - g))
            sides[0].append(middle)
            sides[1].append(middle)
        if g >= 0:
            sides[0].append(q)
        if g <= 0:
            sides[1].append(q)
    return [np.array(side) for side in sides if len(side) >= 3]


def _box(layers: Any, low: np.ndarray, high: np.ndarray) -> int:
    """Pieces as half-spaces G x ≤ h with the affine map on them; a side counts where a ball fits inside."""
    d = len(low)
    pieces = [(np.zeros((0, d)), np.zeros(0), np.eye(d), np.zeros(d))]
    least = TOLERANCE**0.75 * (high - low).min()
    for W, b in layers:
        cut = []
        for G, h, A, c in pieces:
            slopes, offsets = W @ A, W @ c + b
            parts = [(G, h, np.zeros(0))]
            for w, offset in zip(slopes, offsets, strict=True):
                split = []
                for G_part, h_part, signs in parts:
                    for sign in (1.0, -1.0):
                        G_new, h_new = np.vstack([G_part, -sign * w]), np.append(h_part, sign * offset)
                        if _radius(G_new, h_new, low, high) > least:
                            split.append((G_new, h_new, np.append(signs, sign)))
                parts = split
            cut += [(G, h, slopes * (s > 0)[:, None], offsets * (s > 0)) for G, h, s in parts]
        pieces = cut
    return len(pieces)


def _radius(G: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Of the largest ball in {G x ≤ h, low ≤ x ≤ high}; −1 where it is empty."""
    d = len(low)
    norms = np.linalg.norm(G, axis=1)
    flat = norms == 0
    if (h[flat] <= 0).any():
        return -1.0
    G, h, norms = G[~flat], h[~flat], norms[~flat]
    walls = np.vstack([np.eye(d), -np.eye(d)])
    found = linprog(
        np.append(np.zeros(d), -1.0),
        A_ub=np.vstack([np.hstack([G, norms[:, None]]), np.hstack([walls, np.ones((2 * d, 1))])]),
        b_ub=np.concatenate([h, high, -low]),
        bounds=[(None, None)] * d + [(0, None)],
    )
    return float(found.x[-1]) if found.status == 0 else -1.0
