"""Recurrent cells whose recurrent matrix is orthogonal by construction, or has a given spectral norm.

Orthogonal: gradients neither grow nor fade through the linear part, ‖Wᵀg‖ = ‖g‖. The matrix is a function of free
parameters, computed once per sequence, so any optimizer keeps it orthogonal to rounding:

- ``"cayley"``: W = (I + A)⁻¹(I − A), A skew; O(h³). It reaches all rotations without eigenvalue −1.
- ``"exp"``: W = exp(A), A skew; O(h³) with a larger constant. It reaches all rotations.
- ``"householder"``: W = H(v_1)⋯H(v_k); O(k h²). With k = h it reaches all orthogonal matrices of determinant (−1)^k.

Spectrally normalised: W = c·V/‖V‖₂, so the gradient over T steps is at most c^T·∏|φ'|: set c ≤ 1 against explosion.
The norm is exact here (an SVD per sequence, not per step), where a power iteration would underestimate it.
When: long dependencies in small recurrent nets. Sources: Helfrich, Willmott & Ye, "Orthogonal recurrent neural networks
with scaled Cayley transform" (2018); Lezcano-Casado & Martínez-Rubio, "Cheap orthogonal constraints" (2019), eq. 3;
Mhammedi et al., "Efficient orthogonal parametrisation ... Householder" (2017), theorem 1; Miyato et al. (2018), eq. 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import expm
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.nn._elman import ElmanCell


def orthogonal_matrix(parameters: Float[Array, "k h"], form: str = "cayley") -> Float[Array, "h h"]:
    """The orthogonal matrix of free parameters. O(h³); O(k h²) for Householder.

    Parameters
    ----------
    parameters
        (h, h) for ``"cayley"`` and ``"exp"``: its strict lower triangle minus the transpose is A. (k, h) for
        ``"householder"``: the reflectors, of any length (zero: no reflection).
    form
        ``"cayley"``, ``"exp"`` or ``"householder"``.

    Raises
    ------
    InputError
        For an unknown form.

    Source
    ------
    Helfrich et al. (2018), eq. 2; Lezcano-Casado & Martínez-Rubio (2019), eq. 3; Mhammedi et al. (2017), eq. 5.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> W = orthogonal_matrix(jnp.arange(9.0).reshape(3, 3), "exp")
    >>> bool(jnp.allclose(W.T @ W, jnp.eye(3), atol=1e-5))
    True
    """
    validation.one_of("cayley", "exp", "householder")("form", form)
    identity = jnp.eye(parameters.shape[1], dtype=parameters.dtype)
    if form == "householder":

        def reflect(W: Array, v: Array) -> tuple[Array, None]:
            size = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
            v = v / jnp.where(size > 0, size, 1.0)  # the length cancels; its square might not be representable
            return W - 2.0 / jnp.where(size > 0, v @ v, 1.0) * jnp.outer(W @ v, v), None

        return jax.lax.scan(reflect, identity, parameters)[0]
    lower = jnp.tril(parameters, -1)
    skew = lower - lower.T
    return expm(skew) if form == "exp" else jnp.linalg.solve(identity + skew, identity - skew)


@final
class OrthogonalCell(eqx.Module):
    """An Elman cell with an orthogonal recurrent matrix, for `RNN` (``cell=OrthogonalCell``).

    Parameters
    ----------
    input_size, hidden_size
        Lengths of x_t and of the state.
    form
        ``"cayley"``, ``"exp"`` or ``"householder"``.
    activation
        φ; the identity gives the linear recurrence whose gradients keep their norm.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one or an unknown form.

    Source
    ------
    Helfrich et al. (2018); Lezcano-Casado & Martínez-Rubio (2019); Mhammedi et al. (2017).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from corollary.nn import RNN
    >>> RNN(2, 3, cell=OrthogonalCell, key=jax.random.key(0))(jnp.ones((5, 2)))[0].shape
    (5, 3)
    """

    inner: ElmanCell
    form: str = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        form: str = "cayley",
        activation: Callable[..., Any] = jnp.tanh,
        key: Any,
    ):
        self.form = validation.one_of("cayley", "exp", "householder")("form", form)
        body, free = jax.random.split(key)
        cell = ElmanCell(input_size, hidden_size, activation, key=body)
        parameters = jax.random.normal(free, (hidden_size, hidden_size))
        self.inner = eqx.tree_at(lambda c: c.weight_hh, cell, parameters)
        self.hidden_size = hidden_size

    @property
    def weight_hh(self) -> Array:
        """The recurrent matrix."""
        return orthogonal_matrix(self.inner.weight_hh, self.form)

    def ready(self) -> ElmanCell:
        """The plain cell with that matrix: computed once, not at every step."""
        return eqx.tree_at(lambda c: c.weight_hh, self.inner, self.weight_hh)

    def __call__(self, x: Array, state: Array) -> Array:
        """One step."""
        return self.ready()(x, state)


@final
class SpectralNormCell(eqx.Module):
    """An Elman cell with recurrent matrix c·V/‖V‖₂, for `RNN` (``cell=SpectralNormCell``).

    Parameters
    ----------
    input_size, hidden_size
        Lengths of x_t and of the state.
    norm
        c, the spectral norm of the recurrent matrix: gradients over T steps grow at most by c^T (for |φ'| ≤ 1).
    activation
        φ; tanh by default.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one or a norm that is not positive.

    Source
    ------
    Miyato et al., "Spectral normalization for generative adversarial networks" (2018), eq. 8; Pascanu et al. (2013),
    §2.1 for the bound.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> cell = SpectralNormCell(2, 3, norm=0.9, key=jax.random.key(0))
    >>> round(float(jnp.linalg.norm(cell.weight_hh, 2)), 5)
    0.9
    """

    inner: ElmanCell
    norm: Any
    hidden_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        norm: float = 1.0,
        activation: Callable[..., Any] = jnp.tanh,
        key: Any,
    ):
        self.norm = validation.number(0, open_low=True)("norm", norm)
        self.inner = ElmanCell(input_size, hidden_size, activation, key=key)
        self.hidden_size = hidden_size

    @property
    def weight_hh(self) -> Array:
        """c·V/‖V‖₂."""
        weight = self.inner.weight_hh
        largest = jnp.linalg.svd(weight, compute_uv=False)[0]
        return weight * (jnp.asarray(self.norm, weight.dtype) / jnp.where(largest > 0, largest, 1.0))

    def ready(self) -> ElmanCell:
        """The plain cell with that matrix: computed once, not at every step."""
        return eqx.tree_at(lambda c: c.weight_hh, self.inner, self.weight_hh)

    def __call__(self, x: Array, state: Array) -> Array:
        """One step."""
        return self.ready()(x, state)
