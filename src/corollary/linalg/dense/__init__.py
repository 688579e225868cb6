"""Dense matrices: Gram matrices, conditioning, refinement, orthogonalisation, subspaces, structure."""
