"""The engine's time per configuration, beside the usual loops and the machine's own ceilings.

Everything runs in one process and in turn, repeat after repeat, so that other load on the machine
affects all alike. Features are random. A part of the recipe is timed and scaled to the whole, steps
and test rows alike.

``workloads`` has the shapes and the floor, ``loops`` the loops that people write, ``ceilings`` the
limits of the machine, ``timing`` the clock; ``comparison`` puts them side by side.

``model`` says what a GPU would take, from what the engine does on one that is ``absent``;
``operations`` has what each kernel moves and computes, ``gpus`` the rates.
"""

from stage2.benchmark.comparison import benchmark
from stage2.benchmark.workloads import WORKLOADS, Workload, find_workload, with_counts

__all__ = ["WORKLOADS", "Workload", "benchmark", "find_workload", "with_counts"]
