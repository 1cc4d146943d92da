"""Post-hoc correction by the model's own class prior [P2P]."""

from __future__ import annotations

from collections.abc import Sequence

from featbank.settings import Setting
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.logit_adjust import LogitAdjust
from stage2.methods.heads.moments import pieces
from stage2.methods.on_demand import torch


class P2P(LogitAdjust):
    """z_k = z⁰_k − τ log π̂_k with the effective prior π̂, the mean of softmax(z⁰) over the training
    rows.

    At the optimum of plain cross-entropy with a bias it is the share π of the rows, and this is
    logit adjustment; regularisation, mixup and held-out rows move them apart. The paper has τ = 1.
    It needs no counts, and a class without training rows has the prior that the model gives it.
    """

    description = "stage-1 logits minus τ times the log of the model's own mean posterior"
    source = "p2p"
    uses_counts = False
    settings = (Setting("tau", 1.0, "strength τ of the prior; grid 0…2", low=0),)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        cache = context.derived.setdefault("p2p", {})
        if not cache:
            total = torch.zeros(len(context.counts), dtype=torch.float64, device=context.device)
            for x, _ in pieces(context):
                total += context.batch(x).z0[:, 0].double().softmax(1).sum(0)
            smallest = torch.finfo(torch.float64).tiny
            cache["log_prior"] = (total / total.sum()).clamp_min(smallest).log()
        tau = column([s["tau"] for s in settings], context.classifier[0]).double()
        return {"shift": (-tau[:, None] * cache["log_prior"]).float()}
