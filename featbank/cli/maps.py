"""Whole maps of ``featbank predict`` and ``featbank evaluate``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.detections import refuse
from featbank.cli.tables import print_tables
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featbank.bank import Bank
    from stage2.export.headfile import LoadedHead, LoadedHeads


def has_maps(features: Sequence[Path], split: str | None) -> bool:
    """Whether features are a bank with whole maps, of the split if one is asked for."""
    from featbank.bank import Bank
    from stage2.export.arrays import is_arrays

    if len(features) != 1 or is_arrays(features[0]):
        return False
    with Bank(features[0]) as bank:
        return bool(bank.mapped) if split is None else split in bank.mapped


@contextmanager
def _opened(
    head: Path, features: Sequence[Path], options: dict[str, Any]
) -> Iterator[tuple[LoadedHead | LoadedHeads, Bank]]:
    """The head and the bank; options of `MapClassifier` as it takes them."""
    from featbank.bank import Bank
    from featbank.texts import read_class_names
    from stage2.export.arrays import is_arrays
    from stage2.export.headfile import load_head

    refuse(("prior_output",), "is not for whole maps.")
    if len(features) != 1 or is_arrays(features[0]):
        raise ConfigError("Whole maps are those of a bank. Give one bank as FEATURES.")
    options.pop("prior_output", None)
    options["restricted"] = options.pop("restrict_classes")
    names, view = options["class_names"], options.pop("view")
    options["class_names"] = None if names is None else read_class_names(names)
    options["views"] = view.split("+") if view else None
    loaded = load_head(head)
    with Bank(features[0]) as bank:
        yield loaded, bank


def write_maps(head: Path, features: Sequence[Path], folder: Path, **options: Any) -> None:
    """Write the label maps that a head predicts, one file for each map of a bank."""
    from stage2.export.maps import MapClassifier, ids_of, write_label_map

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Give a folder for the maps.")
    with _opened(head, features, options) as (loaded, bank):
        classifier = MapClassifier(loaded, bank, **options)
        ids = ids_of(bank, classifier.match, restricted=options["restricted"])
        for note in classifier.notes:
            warnings.warn(note)
        folder.mkdir(parents=True, exist_ok=True)
        digits = len(str(classifier.maps.images.max(initial=0)))
        for each in classifier:
            write_label_map(folder / f"{each.image:0{digits}}.png", each.predicted, ids)
    say(
        f"Classified {number(len(classifier), 'map')} of {classifier.split}. Wrote them to "
        f"{folder}, named by source group."
    )


def show_map_figures(head: Path, features: Sequence[Path], form: str, **options: Any) -> None:
    """Measure a head on the whole maps of a bank, as it is and under a prior."""
    from stage2.export.map_figures import figures_of, foreign_note, map_table, render_maps
    from stage2.export.maps import MapClassifier

    with _opened(head, features, options) as (loaded, bank):
        prior = options.pop("prior")
        priors = {"as exported": None, **({prior: prior} if prior else {})}
        groups, figures = bank.class_groups, {}
        for name, each in priors.items():
            classifier = MapClassifier(loaded, bank, prior=each, **options)
            figures[name] = figures_of(classifier, classifier.match, groups)
        for note in [*classifier.notes, *foreign_note(figures[name])]:
            warnings.warn(note)
        maps, split = number(len(classifier), "whole map"), classifier.split
        title = f"{loaded.facts.recipe['id']} on {maps} of {split}"
        if form == "table":
            print_tables([map_table(figures, groups.shown, "")], title)
        else:
            click.echo(render_maps(figures, groups.shown, form, title))
