"""Tensors in compressed formats: CP, Tucker, tensor trains and matrix product states, each with its measured error."""

from corollary.linalg.tensor._basics import fold, khatri_rao, mode_product, outer, unfold
from corollary.linalg.tensor._formats import CP, TensorRing, TensorTrain, Tucker

__all__ = [
    "CP",
    "TensorRing",
    "TensorTrain",
    "Tucker",
    "fold",
    "khatri_rao",
    "mode_product",
    "outer",
    "unfold",
]
