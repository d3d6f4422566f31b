"""Benchmarks: ours against what people use, in one run. Not installed with the package."""
