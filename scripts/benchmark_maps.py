"""Exported heads on maps of features beside the bare 1 × 1 convolution of the same size.

Claim (no GPU, processor time): a head that is affine in the features is as fast as its 1 × 1
convolution, as it is nothing else; a cosine classifier, which needs the lengths of the features,
and DisAlign, whose gate passes over the logits, take about a quarter longer.

The floor is the convolution, one pass over its logits in place, and for cosine one over the
features: what no sequence of PyTorch's operations can do without.

    .venv/bin/python scripts/benchmark_maps.py [--maps 2] [--side 64] [--repeats 31]

Features are random, D = 512 and K = 150, as of a segmentation network on ADE20K.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

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
    """Print the ratio of each head, and of its floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="height and width of a map")
    parser.add_argument("--repeats", type=int, default=31)
    options = parser.parse_args()
    x = torch.randn(options.maps, DIM, options.side, options.side)
    with torch.no_grad():
        for name, (form, parts) in HEADS.items():
            head = _head(form, parts)
            weight, bias = head.form.weight, head.form.bias
            convolve = partial(conv2d, x, weight[:, :, None, None], bias)
            floor = partial(_floor, convolve, x if parts else None)
            runs = {"head": partial(head, x), "floor": floor, "convolution": convolve}
            seconds = alternate(runs, options.repeats, time.process_time)
            head_ratio, floor_ratio = (
                spread(ratios(seconds[run], seconds["convolution"]), 2) for run in ("head", "floor")
            )
            print(f"{name}: {head_ratio} of its 1 × 1 convolution, floor {floor_ratio}")


def _floor(convolve: Callable[[], Tensor], x: Tensor | None) -> Tensor:
    """A convolution, a pass over its logits, and one over features x that are given."""
    return convolve().mul_(2 if x is None else x.sum(1, keepdim=True))


def _head(form: str, parts: int) -> HeadModule:
    """A head of random weights."""

    def tensor(name: str, axes: str) -> Tensor:
        shape = [SIZES[axis] for axis in axes]
        return torch.zeros(shape, dtype=torch.bool) if name == "empty" else torch.randn(shape)

    tensors = {name: tensor(name, axes) for name, axes in FORMS[form].shapes.items()}
    return HeadModule(FORMS[form](tensors, {"parts": parts} if form == "affine" else {}))


if __name__ == "__main__":
    main()
