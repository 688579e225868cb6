"""Consensus ADMM: one model from data in shards, by proximal steps on each shard and averaging.

    x_i⁺ = argmin_x ℓ(x; data_i) + ρ/2‖x − z + u_i‖²,    z⁺ = prox_{h/(Nρ)}(mean_i (x_i⁺ + u_i)),
    u_i⁺ = u_i + x_i⁺ − z⁺.

What travels between shards is one mean of the model's size a step. The certificate is that of the pooled problem: the
gradient of the summed loss at z plus the subgradient of h that the prox left. Each local step is a few Newton steps
(one is exact for least squares), O(p³) each, or an oracle of your own.
Source: Boyd et al. (2011), sections 7.1.1 and 7.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, finite, floats, like, norm
from corollary.optim.penalties import Penalty, Zero
from corollary.optim.penalties._base import Scalar

HALVINGS = 60


@final
class Consensus(Problem):
    """Minimise Σ_i ℓ(x; data_i) + h(x), the data in shards.

    Parameters
    ----------
    loss
        ``loss(x, data_i)``, a convex, twice differentiable function of x to a scalar.
    data
        Array or pytree whose leading axis counts the shards; all shards of one shape.
    penalty
        A convex member of `corollary.optim.penalties`; none if left out.

    Raises
    ------
    InputError
        For shards of unlike number, data that are not finite, and a penalty that is not convex.

    Examples
    --------
    >>> import numpy as np
    >>> from corollary.optim import ConsensusADMM, minimize
    >>> problem = Consensus(lambda x, b: ((x - b) ** 2).sum() / 2, np.array([[1.0], [2.0], [6.0]]))
    >>> minimize(problem, [0.0], ConsensusADMM(), tol=1e-8).value.round(4).tolist()
    [3.0]
    """

    loss: Callable[[Any, Any], Any]
    data: Any
    penalty: Penalty

    def __init__(self, loss: Any, data: Any, penalty: Any = None):
        if not callable(loss):
            raise InputError(f"loss: found {type(loss).__name__}, expected a function of x and one shard's data")
        self.loss = loss
        self.data = follows_input(finite)("data", data)
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.data)}
        if len(counts) != 1 or counts == {()}:
            raise InputError(f"data: found leading axes {sorted(counts)}, expected one number of shards")
        if penalty is not None and (not isinstance(penalty, Penalty) or not penalty.is_convex):
            raise InputError(f"penalty: found {type(penalty).__name__}, expected a convex member of optim.penalties")
        self.penalty = Zero() if penalty is None else penalty

    @property
    def shards(self) -> int:
        """How many."""
        return jax.tree.leaves(self.data)[0].shape[0]

    def total(self, x: PyTree) -> Scalar:
        """Σ_i ℓ(x; data_i)."""
        return jnp.sum(jax.vmap(self.loss, in_axes=(None, 0))(x, floats(self.data)))

    @follows_input
    def objective(self, x: Any) -> Any:
        """Σ_i ℓ(x; data_i) + h(x)."""
        x = floats(x)
        return self.total(x) + self.penalty.value(x)

    def default_solver(self) -> tuple[Solver, str]:
        """`ConsensusADMM`."""
        return ConsensusADMM(), "data in shards"


class ConsensusState(eqx.Module):
    """The answer z (as ``x``), each shard's x_i and scaled multiplier u_i, and ρ."""

    x: PyTree
    local: PyTree
    scaled: PyTree
    rho: Scalar
    count: Int[Array, ""]
    balance_at: Int[Array, ""]


@final
class ConsensusADMM(Solver):
    """Consensus ADMM for a `Consensus`. Cost a step: the local steps, and one mean over the shards.

    Parameters
    ----------
    rho
        ρ > 0 at the start; from the mean curvature of the losses if left out. It then follows the ratio of the
        residuals, ever more rarely.
    newton_steps
        Of each local step; one is exact for quadratic losses.
    local_step
        ``local_step(v, rho, data_i, x)``, a minimiser of ℓ(x; data_i) + ρ/2‖x − v‖² from the last x, in place of
        Newton's.
    mesh, axis
        A `jax.sharding.Mesh` and the axis that the shards lie on (their number a multiple of the devices): local steps
        then run where their data are, under `jax.shard_map`. Left out, one device does them all, vmapped.

    Notes
    -----
    Certificate: ``stationarity`` (monitor) of the pooled problem, from `minimize`.

    Examples
    --------
    >>> import numpy as np
    >>> from corollary.optim import Consensus, minimize, penalties
    >>> shards = np.array([[[1.0, 0.0]], [[0.0, 2.0]]]), np.array([[3.0], [4.0]])
    >>> problem = Consensus(lambda x, d: ((d[0] @ x - d[1]) ** 2).sum() / 2, shards, penalties.L1(0.5))
    >>> minimize(problem, [0.0, 0.0], ConsensusADMM(), tol=1e-8).value.round(4).tolist()
    [2.5, 1.875]
    """

    rho: Any = None
    newton_steps: int = eqx.field(static=True, default=1)
    local_step: Callable[..., Any] | None = None
    mesh: Mesh | None = eqx.field(static=True, default=None)
    axis: str = eqx.field(static=True, default="shards")

    def __check_init__(self):
        """Refuse settings out of range."""
        if self.rho is not None:
            at_least_zero("rho", self.rho, positive=True)
        validation.integer(1)("newton_steps", self.newton_steps)
        if self.mesh is not None and self.axis not in self.mesh.axis_names:
            raise InputError(f"axis: found {self.axis!r}, expected one of the mesh's axes {self.mesh.axis_names}")

    def check(self, problem: Problem) -> None:
        """A `Consensus` whose shards fit the mesh."""
        if not isinstance(problem, Consensus):
            raise InputError(f"problem: found {type(problem).__name__}, expected a Consensus")
        if self.mesh is not None and problem.shards % self.mesh.shape[self.axis]:
            devices = self.mesh.shape[self.axis]
            raise InputError(f"data: found {problem.shards} shards, expected a multiple of the {devices} devices")

    def init(self, problem: Consensus, x0: PyTree) -> ConsensusState:
        """Every shard at x0."""
        x0 = jax.tree.map(jnp.asarray, x0)
        local = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (problem.shards, *leaf.shape)), x0)
        rho = like(_curvature(problem, x0) if self.rho is None else self.rho, x0)
        return ConsensusState(x0, local, optax.tree.zeros_like(local), rho, jnp.int32(0), jnp.int32(5))

    def step(self, problem: Consensus, state: ConsensusState) -> tuple[ConsensusState, Info]:
        """The local steps, the mean, the prox; and the pooled gradient at the new z."""
        rho, count = state.rho, state.count + 1
        n = like(problem.shards, state.x)
        run = self._over_shards(self._local_steps, problem)
        local, mean = run(problem.data, state.local, state.scaled, state.x, rho)
        z = problem.penalty.prox(mean, 1 / (n * rho))
        scaled = jax.tree.map(lambda u, x, z: u + x - z, state.scaled, local, z)

        value, gradient, spread = self._over_shards(self._pooled, problem)(problem.data, local, z)
        subgradient = jax.tree.map(lambda m, z: n * rho * (m - z), mean, z)
        scale = norm(gradient) + norm(subgradient)
        residual = norm(optax.tree.add(gradient, subgradient))
        primal, dual = spread, rho * jnp.sqrt(n) * norm(optax.tree.sub(z, state.x))
        extra = {"primal_residual": primal, "dual_residual": dual}
        floor = rounding(scale + n * rho * norm(z))
        info = Info(value + problem.penalty.value(z), residual, scale, floor, 1 / rho, extra=extra)

        ratio = (primal / jnp.maximum(norm(z) * jnp.sqrt(n), primal)) / jnp.where(scale > 0, dual / scale, 1)
        told = (primal > 0) & (dual > 0) & (scale > 0) & (count >= state.balance_at)
        factor = jnp.sqrt(jnp.where(told, ratio, 1))
        factor = jnp.where(told & ((factor > 2) | (factor < 0.5)), jnp.clip(factor, 0.2, 5.0), 1.0)
        later = count + jnp.maximum(5, count // 3)
        return ConsensusState(
            x=z,
            local=local,
            scaled=optax.tree.scale(1 / factor, scaled),
            rho=rho * factor,
            count=count,
            balance_at=jnp.where(count >= state.balance_at, later, state.balance_at),
        ), info

    def stats(self, problem: Consensus, state: ConsensusState) -> dict[str, Any]:
        """ρ, and how far the shards are apart."""
        return {"rho": state.rho, "local": state.local}

    def _over_shards(self, function: Callable[..., Any], problem: Consensus) -> Callable[..., Any]:
        """The function of all shards' data, on one device or with the shards spread over the mesh."""
        bound = jax.tree_util.Partial(function, problem.loss)
        if self.mesh is None:
            return jax.tree_util.Partial(bound, None)
        spread, whole = PartitionSpec(self.axis), PartitionSpec()
        local = function.__name__ == "_local_steps"
        inputs = (spread, spread, spread, whole, whole) if local else (spread, spread, whole)
        outputs = (spread, whole) if local else (whole, whole, whole)
        return jax.shard_map(
            jax.tree_util.Partial(bound, self.axis), mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )

    def _local_steps(
        self, loss: Any, axis: str | None, data: PyTree, local: PyTree, scaled: PyTree, z: PyTree, rho: Scalar
    ) -> tuple[PyTree, PyTree]:
        def one(data, x, u):
            v = optax.tree.sub(z, u)
            if self.local_step is not None:
                return self.local_step(v, rho, data, x)
            return newton_prox(jax.tree_util.Partial(_at, loss, data), v, rho, x, self.newton_steps)

        local = jax.vmap(one)(data, local, scaled)
        mean = jax.tree.map(lambda x, u: jnp.mean(x + u, axis=0), local, scaled)
        return local, mean if axis is None else jax.lax.pmean(mean, axis)

    def _pooled(self, loss: Any, axis: str | None, data: PyTree, local: PyTree, z: PyTree) -> tuple[Any, ...]:
        def pooled(x):
            return jnp.sum(jax.vmap(lambda d: loss(x, d))(data))

        value, gradient = jax.value_and_grad(pooled)(z)
        apart = norm(jax.tree.map(lambda x, z: x - z, local, z))
        if axis is None:
            return value, gradient, apart
        value, gradient, squared = jax.lax.psum((value, gradient, apart**2), axis)
        return value, gradient, jnp.sqrt(squared)


def newton_prox(function: Callable[[Any], Any], v: PyTree, rho: Scalar, x: PyTree, steps: int) -> PyTree:
    """Newton's steps on function(x) + ρ/2‖x − v‖² from x, halved till it falls. Cost O(p³) each."""
    target, unravel = ravel_pytree(v)

    def model(flat):
        return function(unravel(flat)) + rho / 2 * jnp.sum(jnp.square(flat - target))

    def body(_, flat):
        H, g = jax.hessian(model)(flat), jax.grad(model)(flat)
        d = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(H), g)
        value, fall = model(flat), g @ d

        def too_long(trial):
            t, count = trial
            # NaN counts as too long.
            falls = model(flat - t * d) <= value - 1e-4 * t * fall + rounding(value)
            return ~falls & (count < HALVINGS)

        t, _ = jax.lax.while_loop(too_long, lambda s: (s[0] / 2, s[1] + 1), (jnp.ones_like(value), jnp.int32(0)))
        return flat - t * d

    return unravel(jax.lax.fori_loop(0, steps, body, ravel_pytree(x)[0]))


def _at(loss: Any, data: Any, x: Any) -> Any:
    return loss(x, data)


def _curvature(problem: Consensus, x0: PyTree) -> Scalar:
    """The mean curvature of the mean loss at x0: the trace of its Hessian over p."""
    flat, unravel = ravel_pytree(x0)
    gradient = jax.grad(lambda flat: problem.total(unravel(flat)) / problem.shards)
    H = jax.jacfwd(gradient)(flat)
    mean = jnp.trace(H) / flat.size
    return jnp.where((mean > 0) & jnp.isfinite(mean), mean, 1.0)
