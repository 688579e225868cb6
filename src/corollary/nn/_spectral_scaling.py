"""A linear map whose spectral norm is a learnt number: γ·W/σ_max(W), for the whole matrix or for each head.

When: attention whose logits should not blow up (σReparam), or a Lipschitz constant to be learnt. γ = σ at the start
leaves W as drawn; γ = 1 is spectral normalisation. The norm is exact: one SVD, O(m n min(m, n)), for the batch.
Source: Zhai et al., "Stabilizing transformer training by preventing attention entropy collapse" (2023), §3.2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError


@final
class SpectralScaling(eqx.Module):
    """x ↦ γ_h W_h/σ(W_h) x + b, with blocks of rows W_h and learnt γ_h. O(m n min(m, n)) once, O(m n) per example.

    Parameters
    ----------
    in_features, out_features
        Lengths.
    heads
        How many blocks of rows, each with its own γ (1: the whole matrix); a divisor of `out_features`.
    start
        ``"one"``: γ = 1, spectral normalisation; ``"norm"``: γ = σ, W as drawn.
    use_bias
        Add b.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one, heads that do not divide, an unknown start.

    Source
    ------
    Zhai et al. (2023), §3.2; per head: the blocks of W_Q and W_K.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> layer = SpectralScaling(4, 6, heads=2, key=jax.random.key(0))
    >>> layer.weight.shape, jnp.linalg.norm(layer.weight[:3], 2).round(5).item()
    ((6, 4), 1.0)
    """

    linear: eqx.nn.Linear
    gamma: Any
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        heads: int = 1,
        start: str = "one",
        use_bias: bool = True,
        key: Any,
    ):
        for name, size in (("in_features", in_features), ("out_features", out_features), ("heads", heads)):
            validation.integer()(name, size)
        if out_features % heads:
            raise InputError(f"heads: found {heads}, expected a divisor of out_features = {out_features}")
        validation.one_of("one", "norm")("start", start)
        self.heads = heads
        self.linear = eqx.nn.Linear(in_features, out_features, use_bias=use_bias, key=key)
        self.gamma = jnp.ones(heads) if start == "one" else self._norms()

    @property
    def weight(self) -> Float[Array, "m n"]:
        """γ_h W_h/σ(W_h), stacked."""
        norms = self._norms()
        factor = self.gamma / jnp.where(norms > 0, norms, 1.0)
        return (self._blocks() * factor[:, None, None]).reshape(self.linear.weight.shape)

    def __call__(self, x: Float[Array, " n"], *, key: Any = None) -> Float[Array, " m"]:
        """One example, (in,) to (out,)."""
        y = self.weight @ x
        return y if self.linear.bias is None else y + self.linear.bias

    def _blocks(self) -> Array:
        rows, columns = self.linear.weight.shape
        return self.linear.weight.reshape(self.heads, rows // self.heads, columns)

    def _norms(self) -> Array:
        return jax.vmap(lambda w: jnp.linalg.svd(w, compute_uv=False)[0])(self._blocks())
