"""Smaller linear layers: a truncated SVD as two thin layers, and a tensor train of the reshaped weight.

`low_rank_layer` keeps the k largest singular values, W ≈ (U_kΣ_k)V_kᵀ: k(m + n) parameters instead of mn, the output
wrong by at most σ_{k+1}‖x‖. `TTLinear` folds rows and columns into modes and keeps a chain of small cores; it also
serves as a layer to train from scratch. When: a trained layer is too large, or its spectrum falls quickly.
O(m n min(m, n)) to split, O(k(m + n)) to apply. Sources: Eckart & Young (1936), Mirsky (1960); Denil et al. (2013);
Novikov, Podoprikhin, Osokin & Vetrov, "Tensorizing neural networks" (2015), §3-4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.solution import Solution
from corollary.linalg.tensor import TensorTrainMatrix, tt_svd
from corollary.optim._tree import norm


@final
class LowRankLinear(eqx.Module):
    """x ↦ left (right x) + b, for one example: left (m, k), right (k, n). Made by `low_rank_layer`."""

    left: Any
    right: Any
    bias: Any

    @property
    def n_parameters(self) -> int:
        """k(m + n), without the bias."""
        return self.left.size + self.right.size

    def __call__(self, x: Float[Array, " n"], *, key: Any = None) -> Float[Array, " m"]:
        """(n,) to (m,)."""
        y = self.left @ (self.right @ x)
        return y if self.bias is None else y + self.bias


def low_rank_layer(layer: Any, *, rank: int | None = None, energy: float | None = None) -> Solution:
    """Two thin layers in place of one, by a truncated SVD. O(m n min(m, n)).

    Parameters
    ----------
    layer
        `equinox.nn.Linear`, or a matrix W (m, n).
    rank
        k; or:
    energy
        The least share of Σσ² to keep, in (0, 1]: k is the smallest rank that does (not under `jit`).

    Returns
    -------
    Solution
        ``value``: `LowRankLinear` with left = U_kΣ_k, right = V_kᵀ. Certificates: ``weight_error`` (exact:
        ‖W − W_k‖_F² = Σ_{i>k}σ_i², measured), ``output_error`` (exact: ‖Wx − W_k x‖ ≤ σ_{k+1}‖x‖, at the worst x).
        ``stats``: ``rank``, ``parameters``, ``energy``.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `energy` is given, within its range.

    Source
    ------
    Eckart & Young (1936); Mirsky (1960), theorem 2.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> small = low_rank_layer(jnp.diag(jnp.array([3.0, 1.0, 0.1])), energy=0.99)
    >>> int(small.stats["rank"]), small.value.n_parameters, bool(small.holds)
    (2, 12, True)
    """
    weight, bias = (layer.weight, layer.bias) if isinstance(layer, eqx.nn.Linear) else (jnp.asarray(layer), None)
    weight = validation.matrix("layer", weight)
    if (rank is None) == (energy is None):
        raise InputError(f"rank, energy: found {rank}, {energy}, expected exactly one")
    U, s, Vh = jnp.linalg.svd(weight, full_matrices=False)
    if rank is None:
        validation.number(0, 1, open_low=True)("energy", energy)
        # The tail's energy, summed from below: no cancellation. Relative to the largest: nothing overflows.
        squares = np.asarray(s / jnp.where(s[0] > 0, s[0], 1.0), np.float64) ** 2
        tail = np.append(np.cumsum(squares[::-1])[::-1], 0.0)
        rank = max(int(np.argmax(tail <= (1 - float(energy or 1)) * tail[0])), 1)
    if validation.integer()("rank", rank) > s.shape[0]:
        raise InputError(f"rank: found {rank}, expected at most {s.shape[0]}")
    value = LowRankLinear(U[:, :rank] * s[:rank], Vh[:rank], bias)
    difference = weight - value.left @ value.right
    dropped = jnp.append(s, jnp.zeros((), s.dtype))[rank]
    slack = rounding(s[0], 8.0 * max(weight.shape))
    frobenius, tail_norm = norm(difference), norm(s[rank:])
    certificates = {
        "weight_error": Certificate(
            "‖W − W_k‖_F = √Σ_{i>k}σ_i²", jnp.abs(frobenius - tail_norm), slack, "exact", "Eckart & Young (1936)"
        ),
        "output_error": Certificate(
            "‖(W − W_k)x‖ ≤ σ_{k+1}‖x‖",
            jnp.linalg.svd(difference, compute_uv=False)[0],
            dropped + slack,
            "exact",
            "Mirsky (1960), theorem 2",
        ),
    }
    relative = s / jnp.where(s[0] > 0, s[0], 1.0)
    kept = 1 - jnp.sum(relative[rank:] ** 2) / jnp.maximum(jnp.sum(relative**2), 1.0)
    stats = {"rank": rank, "parameters": value.n_parameters, "energy": kept}
    return Solution(value, certificates, 0, 1, stats)


@final
class TTLinear(eqx.Module):
    """A linear layer whose weight is a tensor train over paired row and column modes. O(d·r²·m·max(M, N)) an example.

    Parameters
    ----------
    row_modes, column_modes
        (m_0, …), (n_0, …), equally many: the layer maps ∏n_k features to ∏m_k.
    rank
        The inner ranks r, all equal.
    use_bias
        Add b, zero at the start.
    key
        From `jax.random.key`; the dense weight's entries have variance 1/∏n_k.

    Raises
    ------
    InputError
        For modes of unequal number or a rank below one.

    Source
    ------
    Novikov et al. (2015), eq. 4-5.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> layer = TTLinear((2, 3), (4, 5), 2, key=jax.random.key(0))
    >>> layer(jnp.ones(20)).shape, layer.weight.size, layer.weight.shape
    ((6,), 46, (6, 20))
    """

    weight: TensorTrainMatrix
    bias: Any

    def __init__(
        self,
        row_modes: Sequence[int],
        column_modes: Sequence[int],
        rank: int,
        *,
        use_bias: bool = True,
        key: Any,
    ):
        validation.integer()("rank", rank)
        if len(row_modes) != len(column_modes) or not row_modes or min(*row_modes, *column_modes) < 1:
            raise InputError(f"row_modes, column_modes: found {row_modes}, {column_modes}, expected equally many sizes")
        d = len(row_modes)
        ranks = [1] + [rank] * (d - 1) + [1]
        # An entry is a sum over ∏ranks paths of products of d entries.
        scale = (math.prod(ranks) * math.prod(column_modes)) ** (-0.5 / d)
        shapes = zip(ranks, row_modes, column_modes, ranks[1:], strict=False)
        keys = jax.random.split(key, d)
        cores = tuple(scale * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
        self.weight = TensorTrainMatrix(cores)
        self.bias = jnp.zeros(math.prod(row_modes)) if use_bias else None

    def __call__(self, x: Float[Array, " n"], *, key: Any = None) -> Float[Array, " m"]:
        """One example: the cores one by one, the dense weight is never formed."""
        part = x.reshape(1, x.shape[0], 1)  # (rank, columns left, rows done)
        for core in self.weight.cores:
            r, m, n, s = core.shape
            part = part.reshape(r, n, -1, part.shape[2])
            part = jnp.einsum("rmns,rnab->sabm", core, part).reshape(s, part.shape[2], part.shape[3] * m)
        y = part.reshape(-1)
        return y if self.bias is None else y + self.bias


def tt_linear(
    layer: Any, row_modes: Sequence[int], column_modes: Sequence[int], *, rank: Any = None, tol: Any = None
) -> Solution:
    """A trained linear layer as a `TTLinear`, by TT-SVD: the tolerance gives the ranks, or ranks give the error.

    Parameters
    ----------
    layer
        `equinox.nn.Linear`, or a matrix (∏m_k, ∏n_k).
    row_modes, column_modes
        Its factorisations, equally many.
    rank, tol
        As in `corollary.linalg.tensor.tt_svd`: give one.

    Returns
    -------
    Solution
        ``value``: `TTLinear`. Certificates: those of `tt_svd` (exact: the error measured against the root of the
        discarded parts). ``stats``: its own, with ``compression``, parameters of W over the train's.

    Raises
    ------
    InputError
        For modes that do not multiply to the weight's shape; as `tt_svd`.

    Source
    ------
    Novikov et al. (2015), §3-4; Oseledets (2011), theorem 2.2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> W = jnp.kron(jnp.eye(2), jnp.ones((3, 2)))
    >>> found = tt_linear(W, (2, 3), (2, 2), rank=1)
    >>> bool(jnp.allclose(found.value(jnp.arange(4.0)), W @ jnp.arange(4.0), atol=1e-5)), found.stats["compression"]
    (True, 2.4)
    """
    weight, bias = (layer.weight, layer.bias) if isinstance(layer, eqx.nn.Linear) else (jnp.asarray(layer), None)
    d = len(row_modes)
    if weight.shape != (math.prod(row_modes), math.prod(column_modes)) or d != len(column_modes):
        found = f"{tuple(row_modes)}, {tuple(column_modes)}"
        raise InputError(
            f"row_modes, column_modes: found {found}, expected equally many, to multiply to {weight.shape}"
        )
    if d < 2:
        raise InputError(f"row_modes: found {d} modes, expected at least two")
    order = [axis for k in range(d) for axis in (k, d + k)]
    tensor = weight.reshape(*row_modes, *column_modes).transpose(order)
    tensor = tensor.reshape([m * n for m, n in zip(row_modes, column_modes, strict=True)])
    found = tt_svd(tensor, rank=rank, tol=tol)
    train = TensorTrainMatrix.of_train(found.value, tuple(row_modes))
    empty = TTLinear(row_modes, column_modes, 1, use_bias=False, key=jax.random.key(0))
    value = eqx.tree_at(lambda t: (t.weight, t.bias), empty, (train, bias), is_leaf=lambda leaf: leaf is None)
    stats = {**found.stats, "compression": weight.size / train.size, "parameters": train.size}
    return Solution(value, found.certificates, found.status, found.steps, stats)
