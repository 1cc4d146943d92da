"""Fused training: the planner, the loop and the kernels."""
