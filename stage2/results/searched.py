"""What of a results file a search has touched: a table says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stage2.results.store import Run, Store


def told_search(store: Store, fingerprint: str, configurations: Mapping[str, Sequence[Run]]) -> str:
    """What follows the number of configurations tried: how many of them halving stopped, and how
    many were chosen by what others had reached; empty without a search."""
    stopped = sum(any(run.status == "stopped" for run in runs) for runs in configurations.values())
    chosen = len(store.made_with(fingerprint, "optuna"))
    told = f", {stopped} stopped early by halving" if stopped else ""
    if chosen:
        some = "all" if chosen == len(configurations) else str(chosen)
        told += f", {some} chosen adaptively by Optuna"
    return told
