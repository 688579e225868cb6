"""Low rank: SVD, range finders, CUR, interpolative and Nyström approximations, pivoted factorisations."""
