"""Functions of matrices and their action on vectors."""
