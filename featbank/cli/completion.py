"""Shell completion beyond click's own, of names that are known without loading PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from stage1.data.catalogue import DATASETS
from stage1.training.presets import PRESETS

PLOTS = (
    "groups",
    "classes",
    "logits",
    "scatter",
    "reliability",
    "confidence",
    "versus",
    "heatmap",
    "setting",
    "norms",
    "shift",
    "confusion",
    "curves",
    "beta",
    "loss",
    "batchnorm",
    "maps",
)
"""Kinds of `stage2.plots`, which is not imported here: PyTorch comes with it."""


def _names(registry: Iterable[str]) -> Callable[[Any, Any, str], list[str]]:
    """Build a completer for the names of a registry."""
    return lambda context, parameter, start: [n for n in registry if n.startswith(start)]


datasets, presets, plots = _names(DATASETS), _names(PRESETS), _names(PLOTS)


def recipes(context: click.Context, parameter: click.Parameter, start: str) -> list[str]:
    """Recipes of `featbank methods`."""
    from stage2.methods.presets import PRESETS as RECIPES

    return [name for name in RECIPES if name.startswith(start)]


def places(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Banks, specifications and folders; ready specifications once a bank is named."""
    path = Path(incomplete)
    folder, start = (path, "") if incomplete.endswith("/") else (path.parent, path.name)
    names = [
        f"{path}/" if path.is_dir() else str(path)
        for path in sorted(folder.glob(f"{start}*"))
        if path.is_dir() or path.suffix in (".h5", ".toml")
    ]
    if context.params.get("places"):
        ready = resources.files("featbank") / "sweeps"
        names += sorted(Path(item.name).stem for item in ready.iterdir())
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
