"""The same call on one device and on eight: rows sharded over a mesh, answers equal to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from corollary import linalg, linear, optim
from corollary.core import Certificate, compile_cache

compile_cache.enable(".cache/xla")
rows = NamedSharding(Mesh(jax.devices(), ("rows",)), PartitionSpec("rows"))
A = jax.random.normal(jax.random.key(0), (800, 12))
b = A @ jnp.arange(12.0) + jax.random.normal(jax.random.key(1), (800,))
key = jax.random.key(2)


def lasso(A, b):
    problem = optim.Composite(optim.LeastSquares(A, b), optim.penalties.L1(40.0))
    return optim.minimize(problem, jnp.zeros(12), tol=1e-5, max_steps=500).value


calls = {
    "gram": lambda A, b: linalg.gram(A),
    "lstsq": lambda A, b: linalg.lstsq(A, b, solver="normal").value,
    "ridge": lambda A, b: linear.ridge(A, b, 3.0).value.coef,
    "minimize": lasso,
    "randomized_svd": lambda A, b: linalg.randomized_svd(A, 3, power_iterations=2, key=key).value[1],
    "sketched": lambda A, b: linalg.lstsq(A, b, solver="sketch", key=key).value,
    "pivoted_qr": lambda A, b: jnp.abs(linalg.pivoted_qr(A).value.R),
    "eigsh": lambda A, b: linalg.eigsh(A.T @ A, 3).value[0],
    "slq": lambda A, b: linalg.slq(A.T @ A, "log", key=key).value,
    "trace": lambda A, b: linalg.xtrace(A.T @ A, key=key).value,
    "tucker": lambda A, b: linalg.tensor.tucker(A.reshape(-1, 4, 3), (3, 2, 2)).value.to_dense(),
    "tt_svd": lambda A, b: linalg.tensor.tt_svd(A.reshape(-1, 4, 3), rank=2).value.to_dense(),
    "cp_als": lambda A, b: linalg.tensor.cp_als(A.reshape(-1, 4, 3), 1, tol=1e-3, key=key).value.to_dense(),
}
report = {"devices": len(jax.devices())}
for name, call in calls.items():
    one, eight = (jax.jit(call)(*jax.device_put((A, b), where)) for where in (jax.devices()[0], rows))
    scale = float(jnp.max(jnp.abs(one)))
    report[name] = float(jnp.max(jnp.abs(jax.device_put(eight, jax.devices()[0]) - one))) / scale

errors = jax.device_put(jnp.abs(b), rows)
claim = jax.jit(lambda e: Certificate("e <= 1", measured=e, bound=jnp.ones_like(e)))(errors)
report["certificate_sharded"] = claim.measured.sharding.is_equivalent_to(rows, 1)
print(json.dumps(report))
"""


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**os.environ, **flags}, check=False
    )
    assert out.returncode == 0, out.stderr[-2000:]
    report = json.loads(out.stdout.splitlines()[-1])
    assert report.pop("devices") == 8
    assert report.pop("certificate_sharded")
    # Sums over 800 rows in another order: n·eps relative, times the condition number (below 2) of A; the iterative
    # solver stops at a relative gap of 1e-5, which strong convexity turns into sqrt(1e-5) of its answer at most.
    limits = {"minimize": 1e-5**0.5}
    for name, error in report.items():
        assert error <= limits.get(name, 2 * 800 * 1.2e-7), (name, error)
