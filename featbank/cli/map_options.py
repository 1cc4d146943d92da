"""Options of maps that become rows."""

from __future__ import annotations

import functools
from typing import Any

import click

from featbank.cli.options import Command, Integer
from featbank.errors import ConfigError


def map_options(command: Command) -> Command:
    """Decorator that adds the options of maps, which the command takes as `sample`, None without
    ``--maps``."""

    @click.option(
        "--maps",
        is_flag=True,
        help="Features are maps [M, h, w, D] and labels [M, H, W], of the same or a finer grid: "
        "pixels become rows, and maps of val and test are kept whole, in float16 unless --dtype is "
        "given.",
    )
    @pixel_options
    @functools.wraps(command)
    def with_maps(*args: Any, maps: bool, sample: Any, **options: Any) -> Any:
        if not maps and sample.settings["pixels_per_image"] is not None:
            raise ConfigError("--pixels-per-image is for maps. Give --maps as well.")
        return command(*args, sample=sample if maps else None, **options)

    return with_maps


def pixel_options(command: Command) -> Command:
    """Decorator that adds the options of sampling pixels, which the command takes as `sample`."""

    @click.option(
        "--pixels-per-image",
        "per_image",
        type=Integer(1),
        metavar="N",
        help="Rows of each map, drawn from its pixels with a label. [default: all]",
    )
    @click.option(
        "--balanced-pixels",
        is_flag=True,
        help="Draw those of train as equally from the classes of a map as these allow.",
    )
    @click.option("--pixel-seed", type=Integer(0), metavar="S", help="Seed. [default: 0]")
    @functools.wraps(command)
    def with_sample(
        *args: Any,
        per_image: int | None,
        balanced_pixels: bool,
        pixel_seed: int | None,
        **options: Any,
    ) -> Any:
        from featbank.exchange.dense import PixelSample

        if per_image is None and (balanced_pixels or pixel_seed is not None):
            option = "--balanced-pixels" if balanced_pixels else "--pixel-seed"
            raise ConfigError(f"{option} is for a sample of pixels. Give --pixels-per-image N.")
        return command(
            *args, sample=PixelSample(per_image, balanced_pixels, pixel_seed or 0), **options
        )

    return with_sample
