"""Games and variational inequalities."""
