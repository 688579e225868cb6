"""Tensors in compressed formats: CP, Tucker, tensor trains and matrix product states, each with its measured error."""

from corollary.linalg.tensor._basics import fold, khatri_rao, mode_product, outer, unfold
from corollary.linalg.tensor._cp import cp_als
from corollary.linalg.tensor._cp_estimator import CPDecomposition
from corollary.linalg.tensor._cp_sampled import cp_sampled
from corollary.linalg.tensor._dmrg import GroundState, dmrg
from corollary.linalg.tensor._entanglement import Entanglement, entanglement_entropy
from corollary.linalg.tensor._formats import CP, TensorRing, TensorTrain, Tucker
from corollary.linalg.tensor._kruskal import (
    KRanks,
    Match,
    Uniqueness,
    core_consistency,
    factor_match_score,
    k_ranks,
    kruskal_certificate,
)
from corollary.linalg.tensor._mpo import heisenberg_mpo, ising_mpo, mpo_of_terms
from corollary.linalg.tensor._mps import canonical_form, expectation, matrix_product_state
from corollary.linalg.tensor._ring import tensor_ring
from corollary.linalg.tensor._tt_arithmetic import (
    tt_identity,
    tt_kronecker_sum,
    tt_laplacian,
    tt_matmat,
    tt_matvec,
    tt_ones,
    tt_random,
    tt_rank_one,
    tt_sum_of,
)
from corollary.linalg.tensor._tt_complete import tt_complete
from corollary.linalg.tensor._tt_cross import tt_cross
from corollary.linalg.tensor._tt_estimator import TensorTrainDecomposition
from corollary.linalg.tensor._tt_matrix import TensorTrainMatrix
from corollary.linalg.tensor._tt_round import tt_round
from corollary.linalg.tensor._tt_solve import tt_solve
from corollary.linalg.tensor._tt_svd import tt_svd
from corollary.linalg.tensor._tucker import tucker
from corollary.linalg.tensor._tucker_estimator import TuckerDecomposition
from corollary.linalg.tensor._variance import energy_variance

__all__ = [
    "CP",
    "CPDecomposition",
    "Entanglement",
    "GroundState",
    "KRanks",
    "Match",
    "TensorRing",
    "TensorTrain",
    "TensorTrainDecomposition",
    "TensorTrainMatrix",
    "Tucker",
    "TuckerDecomposition",
    "Uniqueness",
    "canonical_form",
    "core_consistency",
    "cp_als",
    "cp_sampled",
    "dmrg",
    "energy_variance",
    "entanglement_entropy",
    "expectation",
    "factor_match_score",
    "fold",
    "heisenberg_mpo",
    "ising_mpo",
    "k_ranks",
    "khatri_rao",
    "kruskal_certificate",
    "matrix_product_state",
    "mode_product",
    "mpo_of_terms",
    "outer",
    "tensor_ring",
    "tt_complete",
    "tt_cross",
    "tt_identity",
    "tt_kronecker_sum",
    "tt_laplacian",
    "tt_matmat",
    "tt_matvec",
    "tt_ones",
    "tt_random",
    "tt_rank_one",
    "tt_round",
    "tt_solve",
    "tt_sum_of",
    "tt_svd",
    "tucker",
    "unfold",
]
