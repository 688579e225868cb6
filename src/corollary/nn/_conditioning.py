"""How well conditioned a residual block is: κ(I + J) against (1 + ‖J‖)/(1 − ‖J‖).

A pre-norm block is x ↦ x + g(norm(x)), with Jacobian I + J, J = g'(norm(x))·norm'(x). Where ‖J‖₂ < 1 every singular
value lies in [1 − ‖J‖, 1 + ‖J‖], so gradients through the block neither vanish nor explode. Layer normalisation divides
J by the standard deviation of x: deeper in a pre-norm stack the stream has grown and J is smaller. Outside ‖J‖ < 1 the
bound says nothing. When: choosing the scale of a branch. O(n³) with the full Jacobian.
Sources: Weyl's inequality for singular values (Horn & Johnson, Matrix Analysis, §7.3); Xiong et al., "On layer
normalization in the transformer architecture" (2020), §3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.solution import Solution


class BlockConditioning(eqx.Module):
    """Of I + J: the singular values, falling, and their ratio κ; and ‖J‖₂."""

    singular_values: Float[Array, " n"]
    condition: Float[Array, ""]
    branch_norm: Float[Array, ""]


def residual_conditioning(
    branch: Callable[..., Any], x: Float[Array, " n"], *, norm: Callable[..., Any] | None = None
) -> Solution:
    """Singular values and condition number of the Jacobian of x + branch(norm(x)). O(n³).

    Parameters
    ----------
    branch
        (n,) to (n,).
    x
        Where.
    norm
        What stands before the branch, e.g. `equinox.nn.LayerNorm`; None: nothing.

    Returns
    -------
    Solution
        ``value``: `BlockConditioning`. Certificate ``condition`` (theorem): κ(I + J) ≤ (1 + ‖J‖)/(1 − ‖J‖), on the
        checked assumption ‖J‖ < 1 (where that fails, it does not apply and the bound is infinite).

    Source
    ------
    Horn & Johnson, Matrix Analysis, §7.3; Xiong et al. (2020), §3.3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> found = residual_conditioning(lambda z: 0.5 * z * jnp.array([1.0, -1.0]), jnp.ones(2))
    >>> round(float(found.value.condition), 4), round(float(found.certificates["condition"].bound), 3)
    (3.0, 3.0)
    """
    before = (lambda z: z) if norm is None else norm
    J = jax.jacobian(lambda z: branch(before(z)))(x)
    n = x.shape[0]
    values = jnp.linalg.svd(jnp.eye(n, dtype=x.dtype) + J, compute_uv=False)
    size = jnp.linalg.svd(J, compute_uv=False)[0]
    small = size < 1
    condition = jnp.where(values[-1] > 0, values[0] / jnp.where(values[-1] > 0, values[-1], 1.0), jnp.inf)
    # Each singular value is known to a few n·eps·(1 + ‖J‖): that is what the quotient's ends are moved by.
    slack = rounding(1 + size, 8.0 * n)
    low = 1 - size - slack
    bound = jnp.where(low > 0, (1 + size + slack) / jnp.where(low > 0, low, 1.0), jnp.inf)
    claim = Certificate(
        "κ(I + J) ≤ (1 + ‖J‖)/(1 − ‖J‖)",
        condition,
        bound,
        "theorem",
        "Weyl's inequality for singular values; Horn & Johnson, §7.3",
        assumptions=(Assumption("‖J‖ < 1", checked=True, holds=small),),
    )
    return Solution(BlockConditioning(values, condition, size), {"condition": claim})
