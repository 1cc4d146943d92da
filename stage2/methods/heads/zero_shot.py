"""Zero-shot classification by the text embeddings of the class names [Radford et al. 2021]."""

from __future__ import annotations

from collections.abc import Sequence

from stage2.methods.heads.affine import AffineHead
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.text import text_weights


class ZeroShot(AffineHead):
    """z_k = s·⟨t_k, x/‖x‖⟩ with t_k the mean over the prompts of class k, at length 1.

    It sees no training row. s is the logit scale that the bank records, 100 in CLIP.
    """

    description = "cosine of the features and the text embedding of each class"
    source = "clip"
    needs_text = True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weight = text_weights(len(settings), context)
        return {"weight": weight, "bias": weight.new_zeros(weight.shape[:2])}
