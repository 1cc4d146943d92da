"""``featbank text``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.options import FILE, output_option, overwrite_option
from featbank.cli.terminal import say
from featbank.wording import number


@click.command()
@click.argument("classes", type=FILE)
@click.option(
    "--model",
    required=True,
    metavar="NAME:WEIGHTS",
    help="A model of open_clip and its weights, a tag or a file; or hf-hub:… or local-dir:….",
)
@click.option(
    "--templates",
    type=FILE,
    help="File with one prompt per line, {} in the place of the class. [default: a photo of a {}.]",
)
@output_option("The file of embeddings, .npz.")
@overwrite_option("Replace an existing file.")
def text(
    *, classes: Path, model: str, templates: Path | None, output: Path, overwrite: bool
) -> None:
    """Embed the names of classes by the text side of an image–text model.

    CLASSES is a bank, or a file with one name per line. The embeddings belong to features of the
    same model: give them to `featbank import --text` or `featbank amend --text`. Underscores in
    names are spaces in prompts.

    \b
    featbank text bank.h5 --model ViT-B-32:laion2b_s34b_b79k -o text.npz
    featbank text names.txt --model ViT-B-16:weights.pt --templates prompts.txt -o text.npz
    """
    import numpy as np

    from featbank.bank import Bank
    from featbank.errors import ConfigError, OutputExists
    from featbank.files import replacing
    from featbank.texts import read_class_names, read_lines
    from stage1.text import PLAIN, class_embeddings, open_clip_text

    if output.suffix != ".npz":
        raise ConfigError(f"{output} is not a .npz. Name the file like text.npz.")
    if output.exists() and not overwrite:
        raise OutputExists(f"{output} exists. Choose another name or --overwrite.")
    if classes.suffix in (".h5", ".hdf5"):
        with Bank(classes) as bank:
            names = bank.class_names
        if names == [str(k) for k in range(len(names))]:
            raise ConfigError(f"The classes of {classes} are numbers. Give a file of their names.")
    else:
        names = read_class_names(classes)
    prompts: tuple[str, ...] = PLAIN
    if templates:
        remedy = "Give one prompt per line, with {} for the class."
        prompts = tuple(line for line in read_lines(templates, "file of prompts", remedy) if line)
        if not prompts:
            raise ConfigError(f"{templates} has no prompts. {remedy}")
    encoder = open_clip_text(model)
    embeddings = class_embeddings(names, prompts, encoder)
    with replacing(output) as part, part.open("wb") as file:
        np.savez(
            file,
            text=embeddings,
            class_names=np.array(names),
            logit_scale=np.float64(encoder.logit_scale),
        )
    shape = " × ".join(map(str, embeddings.shape[1:]))
    say(
        f"Wrote {output}: {number(len(prompts), 'prompt')} of {shape}, logit scale "
        f"{encoder.logit_scale:.4g}. Next: featbank import … --text {output}"
    )
