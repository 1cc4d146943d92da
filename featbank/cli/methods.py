"""``featbank methods``."""

from __future__ import annotations

from collections.abc import Mapping

import click

from featbank.cli import completion
from featbank.cli.tables import print_hanging
from featbank.errors import ConfigError, closest
from featbank.settings import Setting
from stage1.training.presets import PRESETS as STAGE1


@click.command()
@click.argument("name", required=False, shell_complete=completion.recipes)
def methods(name: str | None) -> None:
    """List recipes, their parts and the presets of stage 1, or show what NAME takes.

    \b
    featbank methods
    featbank methods mislas
    """
    from stage2.methods.bibliography import citation
    from stage2.methods.optimisers import SCHEDULES
    from stage2.methods.presets import PRESETS
    from stage2.methods.registries import REGISTRIES, plural

    if name is None:
        _list("recipes", {key: entry.description for key, entry in PRESETS.items()})
        for kind, registry in REGISTRIES.items():
            _list(plural(kind), {key: entry.description for key, entry in registry.items()})
        _list("schedules", SCHEDULES)
        _list("presets of stage 1", {key: preset.described for key, preset in STAGE1.items()})
        click.echo("featbank methods NAME shows what one takes, and where it comes from.")
        return
    kinds = [kind for kind, registry in REGISTRIES.items() if name in registry]
    if name in STAGE1:
        click.echo(f"preset of stage 1 {name}: {STAGE1[name].description}")
        click.echo(f"  from {STAGE1[name].source}")
        click.echo("".join(f"  {option}\n" for option in STAGE1[name].options), nl=False)
        return
    if name not in PRESETS and not kinds:
        parts = {key for registry in REGISTRIES.values() for key in registry}
        known = sorted({*PRESETS, *STAGE1, *parts})
        raise ConfigError(f"No method is called {name!r}. {closest(name, known)}")
    if name in PRESETS:
        _recipe(name)
    for kind in kinds:
        entry = REGISTRIES[kind][name]
        click.echo(f"{kind} {name}: {entry.description}\n  from {citation(entry.source)}")
        for setting in entry.settings:
            _setting(setting.name, setting.default, setting)


def _list(title: str, described: Mapping[str, str]) -> None:
    click.echo(title)
    for key, description in described.items():
        print_hanging(f"  {key:<22} ", description)


def _recipe(name: str) -> None:
    from stage2.methods.bibliography import BIBLIOGRAPHY, citation
    from stage2.methods.presets import PRESETS
    from stage2.methods.recipe import Recipe
    from stage2.methods.recipe_settings import settings_of

    preset = PRESETS[name]
    print_hanging(f"recipe {name}: ", preset.description)
    print_hanging("  from ", citation(preset.source))
    click.echo(f"  settings: {preset.provenance}")
    takes = settings_of(name, {}).settings
    values = Recipe(name).settings
    for key, setting in takes.items():
        _setting(key, values.get(key), setting)
    for source, figures in preset.reported.items():
        for benchmark, top1 in figures.items():
            paper = BIBLIOGRAPHY[source].short
            print_hanging("  reported by ", f"{paper} on {benchmark}: {top1} % top-1")


def _setting(key: str, value: object, setting: Setting) -> None:
    text = "not set" if value is None else value
    print_hanging(f"  {key:<16} {text!s:<14} ", f"{setting.help} ({setting.expects()})")
