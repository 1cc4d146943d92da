"""Exported heads on maps of features beside the bare 1 × 1 convolution of the same size.

Claim (two cores, no GPU): a head that is affine in the features is as fast as its 1 × 1
convolution, as it is nothing else; a cosine classifier, which needs the lengths of the features,
and DisAlign, whose gate passes over the logits, take no more than twice as long.

    .venv/bin/python scripts/benchmark_maps.py [--maps 2] [--side 64] [--repeats 9]

Features are random, D = 512 and K = 150, as of a segmentation network on ADE20K.
"""

from __future__ import annotations

import argparse

import torch
from measuring import alternate, ratios, spread
from torch import Tensor
from torch.nn.functional import conv2d

from stage2.export.forms import FORMS, HeadModule

DIM, CLASSES, HIDDEN = 512, 150, 512
SIZES = {"K": CLASSES, "D": DIM, "H": HIDDEN, "1": 1}
HEADS = {"linear": ("affine", 0), "cosine": ("affine", 1), "disalign": ("gated", 0)}
"""Heads by their form and parts."""


def main() -> None:
    """Print the ratio of each head."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="height and width of a map")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    x = torch.randn(options.maps, DIM, options.side, options.side)
    with torch.no_grad():
        for name, (form, parts) in HEADS.items():
            head = _head(form, parts)
            weight, bias = head.form.weight, head.form.bias
            runs = {
                "head": lambda head=head: head(x),
                "convolution": lambda w=weight, b=bias: conv2d(x, w[:, :, None, None], b),
            }
            seconds = alternate(runs, options.repeats)
            ratio = ratios(seconds["head"], seconds["convolution"])
            print(f"{name}: {spread(ratio, 2)} of its 1 × 1 convolution")


def _head(form: str, parts: int) -> HeadModule:
    """A head of random weights."""

    def tensor(name: str, axes: str) -> Tensor:
        shape = [SIZES[axis] for axis in axes]
        return torch.zeros(shape, dtype=torch.bool) if name == "empty" else torch.randn(shape)

    tensors = {name: tensor(name, axes) for name, axes in FORMS[form].shapes.items()}
    return HeadModule(FORMS[form](tensors, {"parts": parts} if form == "affine" else {}))


if __name__ == "__main__":
    main()
