"""How it is trained: the planner, the loop and the kernel."""
