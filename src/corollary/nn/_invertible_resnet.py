"""An invertible residual network: x ↦ x + g(x) in each block, with Lip(g) ≤ c < 1 by spectral normalisation.

Every block is a bijection: distances change by factors in [1 − c, 1 + c], and the inverse is the fixed point of
x = y − g(x), reached at rate c. When: invertible features, flows, distance-aware uncertainty. O(blocks·width²) forward;
the inverse takes ln(tol)/ln(c) times as much. The norms are exact (SVD, O(width³) per call, shared by a batch).
Source: Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen, "Invertible residual networks" (2019), theorem 1, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status
from corollary.optim._tree import norm


@final
class InvertibleResNet(eqx.Module):
    """Residual blocks x + W₂φ(W₁x + b₁) + b₂ whose branches are c-Lipschitz. Batch axes may come first.

    Parameters
    ----------
    size, width, depth
        Features of x; of the branches' hidden layer; number of blocks.
    c
        Lip(branch) ≤ c, in (0, 1).
    activation
        φ, of Lipschitz constant 1 (tanh, ReLU, ELU, sin).
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one, or c outside (0, 1).

    Source
    ------
    Behrmann et al. (2019), theorem 1; each layer's weight is divided by max(1, σ/√c), their eq. 2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> net = InvertibleResNet(3, 8, 2, c=0.5, key=jax.random.key(0))
    >>> y = net(jnp.ones(3))
    >>> back = net.inverse(y, tol=1e-6)
    >>> bool(back.holds), bool(jnp.allclose(back.value, 1.0, atol=1e-5))
    (True, True)
    """

    blocks: tuple[tuple[eqx.nn.Linear, eqx.nn.Linear], ...]
    c: Any
    activation: Callable[..., Any] = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        width: int,
        depth: int = 1,
        *,
        c: float = 0.9,
        activation: Callable[..., Any] = jnp.tanh,
        key: Any,
    ):
        for name, value in (("size", size), ("width", width), ("depth", depth)):
            validation.integer()(name, value)
        if not 0 < c < 1:
            raise InputError(f"c: found {c}, expected a number in (0, 1)")
        keys = jax.random.split(key, 2 * depth)
        make = eqx.nn.Linear
        self.blocks = tuple(
            (make(size, width, key=keys[2 * k]), make(width, size, key=keys[2 * k + 1])) for k in range(depth)
        )
        self.c = c
        self.activation = activation

    def branch(self, block: int, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """g of one block."""
        return self._branch(self._normalised(block), x)

    def __call__(self, x: Float[Array, "... n"], *, key: Any = None, inference: bool = False) -> Float[Array, "... n"]:
        """(..., size) to (..., size)."""
        for k in range(len(self.blocks)):
            x = x + self.branch(k, x)
        return x

    def inverse(self, y: Float[Array, "... n"], *, tol: Any = 1e-6, max_steps: int = 1000) -> Solution:
        """x with f(x) = y, block by block by fixed-point iteration.

        Parameters
        ----------
        y
            (..., size).
        tol
            On ‖f(x) − y‖, relative to ‖y‖, both over the whole batch; rounding of x and y comes on top.
        max_steps
            Of the iteration, per block.

        Returns
        -------
        Solution
            ``value``: x. Certificates: ``residual`` (exact: ‖f(x) − y‖ ≤ tol·‖y‖) and ``error`` (theorem: ‖x − x*‖ ≤
            ‖f(x) − y‖/(1 − c)^blocks, against tol·‖y‖/(1 − c)^blocks). ``steps``: over all blocks. ``stats``:
            ``rates``, by block the largest ratio of successive steps seen.

        Raises
        ------
        InputError
            For a tolerance that is not positive.
        """
        if not isinstance(tol, Tracer):
            validation.number(0, open_low=True)("tol", float(tol))
        validation.integer()("max_steps", max_steps)
        scale = norm(y)
        c, x, steps, rates = jnp.asarray(self.c, y.dtype), y, jnp.zeros((), jnp.int32), []
        # Errors of later blocks grow by up to 1/(1 − c) in each earlier one, residuals by 1 + c in each later one.
        depth = len(self.blocks)
        goal = jnp.asarray(tol, y.dtype) * scale / (4 * depth * ((1 + c) / (1 - c)) ** depth)
        for k in reversed(range(depth)):
            x, taken, rate = self._fixed_point(k, x, goal, max_steps)
            steps, rates = steps + taken, [rate, *rates]
        residual = norm(self(x) - y)
        allowed = jnp.asarray(tol, y.dtype) * scale + rounding(jnp.maximum(scale, norm(x)), 32.0 * depth)
        growth = (1 - c) ** (-depth)
        source = "Behrmann et al. (2019), algorithm 1 and theorem 1"
        certificates = {
            "residual": Certificate("‖f(x) − y‖ ≤ tol·‖y‖", residual, allowed, "exact", source),
            "error": Certificate(
                "‖x − x*‖ ≤ ‖f(x) − y‖/(1 − c)^blocks", residual * growth, allowed * growth, "theorem", source
            ),
        }
        status = Status.of(certificates["residual"].holds, jnp.isfinite(residual))
        return Solution(x, certificates, status, steps, {"rates": jnp.stack(rates)})

    def _normalised(self, block: int) -> Any:
        """The two layers, each divided by max(1, σ/√c)."""
        out = []
        for layer in self.blocks[block]:
            size = jnp.linalg.svd(layer.weight, compute_uv=False)[0]
            root = jnp.sqrt(jnp.asarray(self.c, size.dtype)) * (1 - rounding(jnp.ones((), size.dtype), 8.0))
            out.append((layer.weight / jnp.maximum(1.0, size / root), layer.bias))
        return out

    def _branch(self, layers: Any, x: Array) -> Array:
        (W1, b1), (W2, b2) = layers
        return self.activation(x @ W1.T + b1) @ W2.T + b2

    def _fixed_point(self, block: int, y: Array, goal: Array, max_steps: int) -> tuple[Array, Array, Array]:
        """x = y − g(x): a step of length s leaves a residual of at most c·s."""
        layers = self._normalised(block)

        def body(carry: Any) -> Any:
            x, before, rate, k = carry
            new = y - self._branch(layers, x)
            moved = norm(new - x)
            # Ratios near rounding say nothing about the map.
            telling = (k > 0) & (before > 1e3 * rounding(norm(y), 1.0))
            ratio = jnp.where(telling, moved / jnp.where(before > 0, before, 1.0), 0.0)
            return new, moved, jnp.maximum(rate, ratio), k + 1

        def going(carry: Any) -> Any:
            floor = rounding(jnp.maximum(norm(y), norm(carry[0])), 2.0)
            return (carry[1] > jnp.maximum(goal, floor)) & (carry[3] < max_steps)

        start = (y, jnp.full((), jnp.inf, y.dtype), jnp.zeros((), y.dtype), jnp.zeros((), jnp.int32))
        x, _, rate, k = jax.lax.while_loop(going, body, start)
        return x, k, rate
