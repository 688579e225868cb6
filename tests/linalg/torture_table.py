"""The table of the room's decompositions and solvers for the torture set: how each is called, what each promises.

A line of `ENTRIES` names a method, the matrices that it takes, a call, the truth of its certificates in extended
precision, and the matrices on which it may decline: on those a certificate or the status may say no, never a falsehood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from corollary import linalg
from tests.linalg.torture import Matrix, eigenvalues
from tests.linalg.torture_truths import (
    KEY,
    Claims,
    K,
    N,
    cholesky_truth,
    condition_truth,
    cur_truth,
    definiteness_truth,
    diagonalizability_truth,
    directions_truth,
    effective_rank_truth,
    expm_truth,
    gram_schmidt_truth,
    gram_truth,
    interpolative_truth,
    iterative_truth,
    lambda_of,
    ldlt_truth,
    leverage_truth,
    log_truth,
    low_rank_truth,
    lstsq_truth,
    lyapunov_truth,
    matmul_truth,
    norms_truth,
    nystrom_truth,
    pairs_truth,
    pivoted_truth,
    polar_truth,
    projector_truth,
    range_truth,
    rank_one_truth,
    rank_truth,
    refine_truth,
    rhs,
    schur_truth,
    shifted,
    sketched_truth,
    solvability_truth,
    solve_truth,
    sqrt_truth,
    step,
    streaming_truth,
    structure_truth,
    subspaces_truth,
    svd_truth,
    tikhonov_truth,
    trace_truth,
)


class Entry(NamedTuple):
    """A method, the matrices that it takes, and the truth of its certificates."""

    kind: str  # "tall", "wide", "square": any matrix of that shape; "symmetric", "psd": n × n
    call: Callable[[Matrix], Any]
    truth: Callable[[Matrix, Any], Claims]
    declines: frozenset[str] = frozenset()  # matrices on which a certificate or the status may say no
    infinite: bool = False  # infinity is an answer
    refuses: frozenset[str] = frozenset()  # matrices that an `InputError` refuses


def _rank_of(A: Matrix) -> int:
    return min(K, *A.shape)


ILL = frozenset({"hilbert", "graded rows", "graded columns", "vandermonde", "lauchli", "nearly rank-deficient"})
SINGULAR = frozenset({"exactly rank-deficient", "ones", "one entry", "zero", "1 × 1 zero"})
SLOW = frozenset({"random", "clustered", "plus and minus", "wilkinson"})  # ratios of eigenvalues near one
SLOW |= {f"random times {p:.0e}" for p in (1e150, 1e-150, 1e15, 1e-15)}
SINGULAR |= {f"exactly rank-deficient times {p:.0e}" for p in (1e150, 1e-150, 1e15, 1e-15)}

ENTRIES: dict[str, Entry] = {
    "lstsq": Entry("tall", lambda A: linalg.lstsq(A, rhs(A)), lstsq_truth, ILL),
    "lstsq normal": Entry(
        "tall", lambda A: linalg.lstsq(A, rhs(A), solver="normal"), lstsq_truth, ILL | SINGULAR | {"kahan"}
    ),
    "lstsq qr, wide": Entry("wide", lambda A: linalg.lstsq(A, rhs(A), solver="qr"), lstsq_truth, ILL),
    "lstsq svd": Entry("tall", lambda A: linalg.lstsq(A, rhs(A), solver="svd"), lstsq_truth, ILL),
    "lstsq lsmr": Entry("tall", lambda A: linalg.lstsq(A, rhs(A), solver="lsmr"), iterative_truth, ILL | SINGULAR),
    "lstsq cg": Entry("tall", lambda A: linalg.lstsq(A, rhs(A), solver="cg"), iterative_truth, ILL | SINGULAR),
    "lstsq sketch": Entry("long", lambda A: linalg.lstsq(A, rhs(A), solver="sketch"), lstsq_truth, ILL),
    "sketched_lstsq": Entry(
        "long",
        lambda A: linalg.sketched_lstsq(A, rhs(A), rows=64, key=KEY),
        sketched_truth,
        ILL | SINGULAR,
        refuses=frozenset({"1 × 1", "1 × 1 zero"}),
    ),
    "svd": Entry("tall", linalg.svd, svd_truth),
    "svd, wide and full": Entry("wide", lambda A: linalg.svd(A, mode="full"), svd_truth),
    "randomized_svd": Entry("tall", lambda A: linalg.randomized_svd(A, _rank_of(A), key=KEY), low_rank_truth),
    "randomized_svd to a tolerance": Entry(
        "wide", lambda A: linalg.randomized_svd(A, tol=1e-2, key=KEY), low_rank_truth
    ),
    "range_finder": Entry("tall", lambda A: linalg.range_finder(A, _rank_of(A), key=KEY), range_truth),
    "tikhonov": Entry("tall", lambda A: linalg.tikhonov(A, rhs(A), lambda_of(A) ** 2), tikhonov_truth),
    "condition_estimate": Entry("square", linalg.condition_estimate, condition_truth, infinite=True),
    "refine": Entry("square", lambda A: linalg.refine(A, rhs(A)), refine_truth, ILL | SINGULAR),
    "gram": Entry("tall", linalg.gram, gram_truth),
    "gram_schmidt": Entry("tall", linalg.gram_schmidt, gram_schmidt_truth),
    "gram_schmidt modified": Entry(
        "tall", lambda A: linalg.gram_schmidt(A, variant="modified"), gram_schmidt_truth, ILL | SINGULAR
    ),
    "four_subspaces": Entry("wide", linalg.four_subspaces, subspaces_truth, ILL),
    "orthogonal_projector": Entry("tall", linalg.orthogonal_projector, projector_truth, ILL),
    "solvability": Entry("square", lambda A: linalg.solvability(A, rhs(A)), solvability_truth, ILL),
    "solve": Entry("square", lambda A: linalg.solve(A, rhs(A)), solve_truth, ILL | SINGULAR),
    "frequent_directions": Entry("tall", lambda A: linalg.frequent_directions(A, K), directions_truth),
    "randomized_matmul": Entry(
        "tall", lambda A: linalg.randomized_matmul(A.T, A, 8, delta=1e-6, certify="full", key=KEY), matmul_truth
    ),
    "pivoted_qr": Entry("tall", linalg.pivoted_qr, pivoted_truth),
    "randomized_rrqr": Entry("tall", lambda A: linalg.randomized_rrqr(A, _rank_of(A), key=KEY), pivoted_truth),
    "interpolative": Entry("tall", lambda A: linalg.interpolative(A, _rank_of(A), key=KEY), interpolative_truth),
    "cur": Entry("tall", lambda A: linalg.cur(A, _rank_of(A)), cur_truth, frozenset({"nearly rank-deficient"})),
    "leverage_scores": Entry("tall", lambda A: linalg.leverage_scores(A, _rank_of(A)), leverage_truth),
    "nystrom": Entry("psd", lambda A: linalg.nystrom(A, _rank_of(A), key=KEY), nystrom_truth),
    "pivoted_cholesky": Entry("psd", linalg.pivoted_cholesky, cholesky_truth),
    "ldlt": Entry("symmetric", linalg.ldlt, ldlt_truth),
    "numerical_rank": Entry("tall", linalg.numerical_rank, rank_truth, ILL),
    "effective_rank": Entry("tall", linalg.effective_rank, effective_rank_truth),
    "StreamingSVD": Entry(
        "tall",
        lambda A: linalg.StreamingSVD(*A.shape, rank=_rank_of(A), key=KEY, dtype=A.dtype).update(A).result(),
        streaming_truth,
    ),
    "definiteness": Entry("symmetric", linalg.definiteness, definiteness_truth),
    "diagonalizability": Entry("square", linalg.diagonalizability, diagonalizability_truth, ILL | {"kahan"}),
    "hutchinson": Entry("square", lambda A: linalg.hutchinson(A, key=KEY), trace_truth(np.trace)),
    "diagonal_estimate": Entry("square", lambda A: linalg.diagonal_estimate(A, key=KEY), trace_truth(np.diag)),
    "hutchpp": Entry("square", lambda A: linalg.hutchpp(A, products=12, key=KEY), trace_truth(np.trace)),
    "xtrace": Entry("square", lambda A: linalg.xtrace(A, products=12, key=KEY), trace_truth(np.trace)),
    "xnystrace": Entry("psd", lambda A: linalg.xnystrace(A, products=6, key=KEY), trace_truth(np.trace)),
    "xdiag": Entry("square", lambda A: linalg.xdiag(A, products=12, key=KEY), trace_truth(np.diag)),
    "slq": Entry(
        "symmetric",
        lambda A: linalg.slq(A, jnp.abs, steps=N, deflation=0, key=KEY),
        trace_truth(lambda A: np.abs(eigenvalues(A)).sum()),
    ),
    "sqrtm": Entry("square", lambda A: linalg.sqrtm(A, symmetric=False), sqrt_truth, ILL | SINGULAR),
    "sqrtm symmetric": Entry("psd", lambda A: linalg.sqrtm(A, symmetric=True), sqrt_truth),
    "logm symmetric": Entry("psd", lambda A: linalg.logm(shifted(A), symmetric=True), log_truth, SINGULAR | SLOW),
    "lyapunov": Entry("psd", lambda A: linalg.lyapunov(shifted(A), A), lyapunov_truth),
    "expm_action": Entry("square", lambda A: linalg.expm_action(A, rhs(A), step(A)), expm_truth),
    "expm_action krylov": Entry(
        "square", lambda A: linalg.expm_action(A, rhs(A), step(A), method="krylov", steps=N), expm_truth
    ),
    "newton_schulz": Entry("tall", lambda A: linalg.newton_schulz(A, steps=10), polar_truth, ILL | SINGULAR),
    "power_iteration": Entry("symmetric", linalg.power_iteration, pairs_truth, SLOW),
    "subspace_iteration": Entry("symmetric", lambda A: linalg.subspace_iteration(A, min(3, len(A))), pairs_truth, SLOW),
    "inverse_iteration": Entry(
        "symmetric",
        lambda A: linalg.inverse_iteration(A, 0.3 * float(np.abs(A).max())),
        pairs_truth,
        frozenset({"graded"}),
    ),
    "rayleigh_quotient_iteration": Entry("symmetric", linalg.rayleigh_quotient_iteration, pairs_truth),
    "deflation": Entry("symmetric", lambda A: linalg.deflation(A, min(3, len(A))), pairs_truth, SLOW),
    "eigsh": Entry("symmetric", lambda A: linalg.eigsh(A, min(3, len(A))), pairs_truth),
    "eigsh, blocks from both ends": Entry(
        "symmetric", lambda A: linalg.eigsh(A, min(3, len(A)), block=2, which="LM"), pairs_truth
    ),
    "qr_algorithm": Entry("square", linalg.qr_algorithm, schur_truth),
    "rank_one_approximation": Entry(
        "tall", linalg.rank_one_approximation, rank_one_truth, frozenset({"grcar", "clustered values"})
    ),
    "norm_inequalities": Entry("tall", linalg.norm_inequalities, norms_truth),
    "matrix_structure": Entry("square", linalg.matrix_structure, structure_truth),
}
