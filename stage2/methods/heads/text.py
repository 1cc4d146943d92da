"""The classifier of text in heads that start from it or add to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stage2.methods.heads.interface import Context
from stage2.methods.heads.moments import pieces
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


def text_weight(context: Context) -> Tensor:
    """W_t [K, D] of the logits W_t·x of text; only for a view that has text."""
    assert context.text is not None
    return context.text.weight


def text_weights(configs: int, context: Context) -> Tensor:
    """A copy of W_t for each of `configs` configurations, [C, K, D]."""
    return text_weight(context).expand(configs, -1, -1).clone()


def text_rows(context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits of text on the training rows and their labels, [n, K] and [n] at a time."""
    for x, y in pieces(context):
        yield torch.nn.functional.linear(x, text_weight(context)), y
