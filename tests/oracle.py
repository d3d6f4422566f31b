"""Independent truth: the dense fp64 formulas of ``divergences.naive``, under the name of their part
in the tests. Gradients come from autograd through these, never from a second formula."""

from divergences.naive import gram, pair_matrices, profile, root, sums

__all__ = ["gram", "pair_matrices", "profile", "root", "sums"]
