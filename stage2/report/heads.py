"""Exported heads on the page, on the bank of the results: logits that it moves
(`stage2.report.live`), and whole maps as pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from featbank.bank import Bank
from stage2.report.live import in_base64, live_of

if TYPE_CHECKING:
    from stage2.export.headfile import LoadedHead, LoadedHeads
    from stage2.results.results import Results

MOST_HEADS = 4
"""Heads of a page."""

MOST_MAPS = 4
"""Whole maps that a page carries."""

LONGEST = 384
"""Pixels of the longer side of a picture; of larger maps every n-th pixel is carried."""


def gather_heads(
    results: Results,
    paths: Sequence[str | os.PathLike[str]],
    features: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """The data of exported heads, by the names that the page asks for.

    Parameters
    ----------
    results
        The results on a bank.
    paths
        Files of heads trained on that bank, at most `MOST_HEADS`.
    features
        The bank, where it has moved since.

    Raises
    ------
    ConfigError
        For too many heads, a head of another bank, and a bank that is not where it was.
    """
    # These import PyTorch, which a page without heads does not need.
    from stage2.export.exporting import bank_path
    from stage2.export.headfile import load_head

    if len(paths) > MOST_HEADS:
        raise errors.ConfigError(
            f"{len(paths)} heads are given, a page takes {MOST_HEADS}. Leave some out."
        )
    heads = [load_head(path) for path in paths]
    for path, head in zip(paths, heads, strict=True):
        if head.facts.bank != results.fingerprint:
            raise errors.ConfigError(
                f"{path} was trained on bank {head.facts.bank[:12]}, the results are of "
                f"{results.fingerprint[:12]}. Give a head that was exported from them."
            )
    with Bank(bank_path(results, features)) as bank:
        if bank.fingerprint != results.fingerprint:
            raise errors.ConfigError(
                f"{bank.path} is bank {bank.fingerprint[:12]}, the results are of "
                f"{results.fingerprint[:12]}. Give the bank they are of with --features."
            )
        ids = [head.facts.recipe["id"] for head in heads]
        maps = {"maps": maps_of(heads, bank)} if bank.mapped else {}
        return {"heads": ids, "live": live_of(heads, bank), **maps}


def maps_of(heads: Sequence[LoadedHead | LoadedHeads], bank: Bank) -> dict[str, Any]:
    """A few maps of a bank: truth, and of each head prediction and difference, as PNG in base64,
    with the share of labelled pixels that are right in percent."""
    from stage2.export.maps import MapClassifier
    from stage2.plots.maps import coloured, labelled_maps

    classifiers = [MapClassifier(head, bank) for head in heads]
    first, maps = classifiers[0], []
    for m in labelled_maps(first, MOST_MAPS).tolist():
        classified = [classifier.one(m) for classifier in classifiers]
        pictures = [coloured(each) for each in classified]
        maps.append(
            {
                "image": classified[0].image,
                "truth": png(pictures[0][0]),
                "predicted": [png(predicted) for _, predicted, _ in pictures],
                "difference": [png(difference) for _, _, difference in pictures],
                "right": [round(each.right, 1) for each in classified],
            }
        )
    return {"split": first.split, "total": len(first), "maps": maps}


def png(picture: np.ndarray) -> str:
    """A picture [H, W, 3], 0 … 1, as a PNG of at most 256 colours in base64."""
    from PIL import Image

    step = -(-max(picture.shape[:2]) // LONGEST)
    image = Image.fromarray((255 * picture[::step, ::step]).round().astype(np.uint8))
    file = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return in_base64(np.frombuffer(file.getvalue(), np.uint8))
