"""Sums for hypothesis tests: over many labellings or permutations of rows, and of Stein kernels."""
