"""Kernels for a GPU, in Triton: each file of launches beside the programs that it launches."""
