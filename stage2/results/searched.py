"""What of the configurations a search has touched: a table says so."""

from __future__ import annotations

from collections.abc import Collection

from stage2.results.configurations import Configuration

SAMPLER = "optuna"
"""The library whose version is stored with the runs that it chose."""


def told_search(configurations: Collection[Configuration]) -> str:
    """What follows the number of configurations tried: how many of them halving stopped, and how
    many were chosen by what others had reached; empty without a search."""
    stopped = sum(own.status == "stopped" for own in configurations)
    chosen = sum(any(SAMPLER in run.versions for run in own.runs) for own in configurations)
    told = f", {stopped} stopped early by halving" if stopped else ""
    if chosen:
        some = "all" if chosen == len(configurations) else str(chosen)
        told += f", {some} chosen adaptively by Optuna"
    return told
