"""What the shell completes beyond click's own: names that are known without loading PyTorch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click
from click.shell_completion import CompletionItem

PLOTS = (
    "groups",
    "classes",
    "reliability",
    "confidence",
    "heatmap",
    "setting",
    "norms",
    "shift",
    "confusion",
    "curves",
    "beta",
)
"""Those of `stage2.plots`, which is not imported for it: PyTorch comes with it."""


def datasets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names for ``--dataset`` and ``featbank datasets``."""
    from stage1.data.catalogue import DATASETS

    return [name for name in DATASETS if name.startswith(incomplete)]


def plots(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Kinds of ``featbank plot``."""
    return [name for name in PLOTS if name.startswith(incomplete)]


def presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names for ``--preset``."""
    from stage1.training.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def places(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Banks, specifications and folders, and once there is a bank the ready specifications."""
    begun = Path(incomplete)
    folder, start = (begun, "") if incomplete.endswith("/") else (begun.parent, begun.name)
    found = [
        f"{path}/" if path.is_dir() else str(path)
        for path in sorted(folder.glob(f"{start}*"))
        if path.is_dir() or path.suffix in (".h5", ".toml")
    ]
    if context.params.get("places"):
        ready = resources.files("featbank") / "sweeps"
        found += sorted(Path(item.name).stem for item in ready.iterdir())
    return [CompletionItem(text) for text in found if text.startswith(incomplete)]
