"""``featbank methods``."""

from __future__ import annotations

import click

from featbank.errors import ConfigError, closest


@click.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List recipes, heads, losses, samplers and schedules, or tell what NAME takes.

    \b
    featbank methods
    featbank methods mislas
    """
    from stage2.methods.heads import HEADS
    from stage2.methods.losses import LOSSES
    from stage2.methods.optimisers import SCHEDULES
    from stage2.methods.presets import PRESETS
    from stage2.methods.samplers import SAMPLERS

    parts = {"head": HEADS, "loss": LOSSES, "sampler": SAMPLERS}
    if name is None:
        described = {"recipe": PRESETS, **parts}
        for kind, registry in described.items():
            click.echo(f"{kind}s".replace("losss", "losses"))
            for key, entry in registry.items():  # type: ignore[attr-defined]
                click.echo(f"  {key:<22} {entry.description} [{entry.source}]")
        click.echo("schedules")
        for key, description in SCHEDULES.items():
            click.echo(f"  {key:<22} {description}")
        click.echo("featbank methods NAME tells what one takes.")
        return
    found = [kind for kind, registry in parts.items() if name in registry]  # type: ignore[operator]
    if name not in PRESETS and not found:
        known = sorted({*PRESETS, *HEADS, *LOSSES, *SAMPLERS})
        raise ConfigError(f"No method is called {name!r}. {closest(name, known)}")
    if name in PRESETS:
        _recipe(name)
    for kind in found:
        entry = parts[kind][name]  # type: ignore[index]
        click.echo(f"{kind} {name}: {entry.description} [{entry.source}]")
        for setting in entry.settings:
            _setting(setting.name, setting.default, setting)


def _recipe(name: str) -> None:
    from stage2.methods.presets import PRESETS
    from stage2.methods.recipe import Recipe, settings_of

    preset = PRESETS[name]
    click.echo(f"recipe {name}: {preset.description} [{preset.source}]")
    takes = settings_of(name, {}).settings
    for key, value in Recipe(name).settings.items():
        _setting(key, value, takes[key])
    for benchmark, top1 in preset.paper.items():
        click.echo(f"  reported: {benchmark} {top1} % top-1")


def _setting(key: str, value: object, setting: object) -> None:
    told = "derived" if value is None else value
    click.echo(f"  {key:<16} {told!s:<14} {setting.help} ({setting.expects()})")  # type: ignore[attr-defined]
