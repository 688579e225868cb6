"""The Picard diagnostic: how the signal and the noise in b = A x + e come out of an inversion, component by component.

When: before regularising. Where |u_iᵀb| stops falling faster than σ_i, noise has taken over and the components beyond
must be damped. Cost: one SVD, O(n p min(n, p)). Source: Hansen, Discrete Inverse Problems (2010), §3.3.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input

Numbers = Float[Array | np.ndarray, " r"]


class Picard(eqx.Module):
    """Components of an inversion, in order of descending σ; those with σ at rounding level are set to zero."""

    singular_values: Numbers
    data: Numbers  # u_iᵀb
    component: Numbers  # u_iᵀb/σ_i, which is signal + noise
    signal: Numbers | None  # u_iᵀA x/σ_i = v_iᵀx
    noise: Numbers | None  # u_iᵀe/σ_i
    amplification: Numbers  # 1/σ_i: the standard deviation of `noise` for white noise of unit variance
    certificates: dict[str, Certificate]

    def plot(self, ax: Any = None) -> Any:
        """The Picard plot: σ_i, |u_iᵀb| and |u_iᵀb|/σ_i on a logarithmic axis."""
        from corollary.core import draw

        ax = draw.axes(ax, title="Picard plot", xlabel="component i", ylabel="size")
        index = np.arange(1, len(self.singular_values) + 1)
        curves = ((self.singular_values, "σ_i", "-"), (self.data, "|u_iᵀb|", "."), (self.component, "|u_iᵀb|/σ_i", "x"))
        for (values, label, style), color in zip(curves, (draw.INK, draw.ACCENT, draw.BOUND), strict=True):
            size = np.abs(np.asarray(values, dtype=float))
            ax.plot(index[size > 0], size[size > 0], style, color=color, label=label)
        ax.set_yscale("log")
        ax.legend(frameon=False)
        return ax


@follows_input
def picard(A: Any, b: Any = None, *, x: Any = None, noise: Any = None) -> Picard:
    """Coefficients u_iᵀb/σ_i of the inverse, and where x and the noise are known, what each of them contributes.

    Parameters
    ----------
    A
        (n, p) matrix.
    b
        (n,) data; or leave it out and give both
    x, noise
        (p,) and (n,): b = A x + noise.

    Returns
    -------
    Picard
        Arrays over i = 1..min(n, p); `.plot()` draws the Picard plot.

    Raises
    ------
    InputError
        Unless either `b` or both `x` and `noise` are given, with fitting lengths.

    Notes
    -----
    Certificates (with x and noise): ``additivity``, signal + noise = component; ``signal``, u_iᵀA x/σ_i = v_iᵀx. Both
    to a rounding that grows with 1/σ_i, as it must.

    Examples
    --------
    >>> import numpy as np
    >>> p = picard(np.diag([2.0, 0.1]), x=np.array([1.0, 1.0]), noise=np.array([0.01, 0.01]))
    >>> np.abs(p.signal).round(6).tolist(), np.abs(p.noise).round(6).tolist()
    ([1.0, 1.0], [0.005, 0.1])
    """
    if (b is None) == (x is None and noise is None) or (x is None) != (noise is None):
        raise InputError("b: expected either b, or both x and noise")
    A = validation.matrix("A", A)
    n, p = A.shape
    for name, value, length in (("b", b, n), ("x", x, p), ("noise", noise, n)):
        if value is not None and validation.vector(name, value).shape[0] != length:
            raise InputError(f"{name}: found length {np.shape(value)[0]}, expected {length}")
    if b is not None:
        return _picard(*common_float(A, b))
    A, x, noise = common_float(A, x, noise)
    return _picard(A, None, x, noise)


@jax.jit
def _picard(A: Array, b: Array | None, x: Array | None = None, noise: Array | None = None) -> Picard:
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    eps = jnp.finfo(A.dtype).eps
    kept = s > max(A.shape) * eps * s[0]
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
    if x is None or noise is None:
        assert b is not None
        data = U.T @ b
        return Picard(s, data, data * inverse, None, None, inverse, {})
    clean = A @ x
    data = U.T @ (clean + noise)
    component, signal, error = data * inverse, (U.T @ clean) * inverse, (U.T @ noise) * inverse
    unit = (16 + 4 * sum(A.shape) ** 0.5) * eps
    scale = jnp.linalg.norm(A) * jnp.linalg.norm(x)

    def claim(text: str, gap: Array, size: Array) -> Certificate:
        allowed = unit * size * inverse
        worst = jnp.argmax(gap - allowed)
        return Certificate(text, gap[worst], allowed[worst], "exact", "Hansen, Discrete Inverse Problems (2010), §3.3")

    certificates = {
        "additivity": claim(
            "|signal_i + noise_i − u_iᵀb/σ_i| at rounding level of ‖b‖/σ_i",
            jnp.abs(signal + error - component),
            scale + jnp.linalg.norm(noise),
        ),
        "signal": claim("|u_iᵀA x/σ_i − v_iᵀx| at rounding level", jnp.where(kept, jnp.abs(signal - Vt @ x), 0), scale),
    }
    return Picard(s, data, component, signal, error, inverse, certificates)
