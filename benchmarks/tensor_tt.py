"""Tensor trains: TT-SVD against TensorLy and tntorch, TT-cross against tntorch and teneva."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tensorly.decomposition
from harness import Entry, main

from corollary.linalg.tensor import tt_cross, tt_svd

KEY = jax.random.key(0)
MISSING = "not installed"


def _have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _slice_error(T: np.ndarray, cores: list[np.ndarray]) -> float:
    """Relative error, slice by slice of the first mode: the full difference would double the memory."""
    rest = cores[1]
    for core in cores[2:]:
        rest = (rest.reshape(-1, core.shape[0]) @ core.reshape(core.shape[0], -1)).reshape(
            rest.shape[0], -1, core.shape[2]
        )
    rest = rest.reshape(cores[1].shape[0], -1)
    wrong = sum(float(np.linalg.norm(cores[0][0, i] @ rest - T[i].ravel())) ** 2 for i in range(len(T)))
    return float(np.sqrt(wrong / sum(float(np.linalg.norm(T[i])) ** 2 for i in range(len(T)))))


def tt_svd_five_modes(n: int = 40, tol: float = 1e-4) -> Entry:
    x = np.linspace(0, 1, n)
    T = 1 / (1 + x[:, None, None, None, None] + x[:, None, None, None] + x[:, None, None] + x[:, None] + x)
    ranks = tt_svd(T, tol=tol).value.rank  # TensorLy takes ranks, not a tolerance: it gets ours
    runs: dict[str, Callable[[], Any]] = {
        "corollary": lambda: list(tt_svd(T, tol=tol).value.cores),
        "TensorLy (given our ranks)": lambda: [
            np.asarray(c) for c in tensorly.decomposition.tensor_train(T, list(ranks)).factors
        ],
    }
    skipped = {}
    if _have("tntorch"):
        tntorch, torch = (importlib.import_module(name) for name in ("tntorch", "torch"))

        data = torch.from_numpy(T)
        runs["tntorch"] = lambda: [c.numpy() for c in tntorch.round_tt(tntorch.Tensor(data), eps=tol).cores]
    else:
        skipped["tntorch"] = MISSING
    return Entry(
        name=f"TT-SVD {n}^5 float64, tol {tol:g}",
        quality="relative error",
        runs=runs,
        skipped=skipped,
        measure=lambda cores: _slice_error(T, cores),
        bar=1.5,
        repeats=3,
        note="Our time includes the search for NaN and the error measured entry by entry.",
    )


def _cross(name: str, function: Callable[[np.ndarray], np.ndarray], d: int = 10, n: int = 32) -> Entry:
    tol, axis = 1e-8, np.linspace(0, 1, n)
    rng = np.random.default_rng(7)
    test = rng.integers(0, n, (5000, d))
    truth = function(axis[test])
    counts: dict[str, int] = {}

    def ours() -> Callable[[np.ndarray], np.ndarray]:
        solution = tt_cross(function, [axis] * d, tol=tol, key=KEY)
        counts["corollary"] = int(solution.stats["evaluations"])
        return solution.value.entries

    runs: dict[str, Callable[[], Any]] = {"corollary": ours}
    skipped = {}
    if _have("teneva"):
        teneva = importlib.import_module("teneva")

        def by_teneva() -> Callable[[np.ndarray], np.ndarray]:
            info: dict[str, Any] = {}
            seen = rng.integers(0, n, (500, d))
            Y = teneva.cross(
                lambda i: function(axis[i]),
                teneva.rand([n] * d, 2, seed=0),
                e=tol,
                e_vld=tol,
                I_vld=seen,
                y_vld=function(axis[seen]),
                nswp=30,
                dr_min=1,
                dr_max=2,
                info=info,
            )
            counts["teneva"] = int(info["m"]) + 500
            return lambda i: teneva.get_many(Y, i)

        runs["teneva"] = by_teneva
    else:
        skipped["teneva"] = MISSING
    if _have("tntorch"):
        tntorch, torch = (importlib.import_module(name) for name in ("tntorch", "torch"))

        torch.set_default_dtype(torch.float64)  # what it makes itself is single otherwise, and 1e-8 out of reach

        def by_tntorch() -> Callable[[np.ndarray], np.ndarray]:
            t, info = tntorch.cross(
                function=lambda x: torch.from_numpy(function(x.numpy())),
                domain=[torch.from_numpy(axis)] * d,
                function_arg="matrix",
                eps=tol,
                max_iter=50,
                verbose=False,
                return_info=True,
            )
            counts["tntorch"] = int(info["nsamples"])
            return lambda i: t[torch.from_numpy(i)].numpy()

        runs["tntorch"] = by_tntorch
    else:
        skipped["tntorch"] = MISSING
    for run in runs.values():
        run()
    return Entry(
        name=f"TT-cross of {name}, {n}^{d}, tol 1e-8",
        quality="relative error at 5000 other points",
        runs=runs,
        skipped=skipped,
        measure=lambda entries: float(np.linalg.norm(entries(test) - truth) / np.linalg.norm(truth)),
        bar=1.0,
        repeats=3,
        note="Evaluations: " + ", ".join(f"{who} {count}" for who, count in counts.items()) + ".",
    )


def cross_reciprocal() -> Entry:
    return _cross("1/(1 + Σx)", lambda x: 1 / (1 + x.sum(axis=1)))


def cross_root() -> Entry:
    return _cross("√(1 + Σx²)", lambda x: np.sqrt(1 + (x**2).sum(axis=1)))


def cross_chain() -> Entry:
    return _cross("exp(−3Σ(x_(k+1) − x_k)²)", lambda x: np.exp(-3 * ((x[:, 1:] - x[:, :-1]) ** 2).sum(axis=1)))


if __name__ == "__main__":
    main("tensor_tt", [tt_svd_five_modes, cross_reciprocal, cross_root, cross_chain])
