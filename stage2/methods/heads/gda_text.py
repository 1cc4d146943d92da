"""Gaussian discriminant analysis added to the classifier of text [Wang et al. 2024]."""

from __future__ import annotations

from collections.abc import Sequence

from featbank.settings import Setting
from stage2.methods.heads.affine import AffineHead
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.lda import LDA
from stage2.methods.heads.text import text_weight


class GDAText(AffineHead):
    """z_k = s·⟨t_k, x/‖x‖⟩ + α(⟨x, Pμ_k⟩ − ½μ_kᵀPμ_k), up to a term common to all classes.

    P is the empirical Bayes estimate of the precision [Kubokawa & Srivastava 2008],

        P = D·[(N−1)Σ̂ + tr(Σ̂)·I]⁻¹,

    Σ̂ the within-class covariance, divided by N − 1. It is that of `LDA` with the shrinkage
    D/(N+D−1), times D(N−1)/(N(N+D−1)). Class priors are equal, as in the release, and N does not
    count augmented copies. A class without rows has its logit of text, as if its mean were that of
    all rows.

    P shrinks as N grows, so the α that suits grows with it: the release takes the best on val.
    """

    description = "zero-shot logits plus those of Gaussian classes with a shared covariance"
    source = "gda_text"
    settings = (Setting("alpha", 1.0, "α, weight of the Gaussians; grid 1e-4…100", low=0),)
    needs_text = True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        rows, dim = float(context.counts.sum()), context.dim
        shrunk = {"shrinkage": dim / (rows + dim - 1), "prior": "uniform"}
        gaussian = LDA().init([shrunk], context)
        alpha = column([s["alpha"] for s in settings], gaussian["bias"])[:, None]
        alpha = alpha * (dim * (rows - 1) / (rows * (rows + dim - 1)))
        return {
            "weight": text_weight(context) + alpha[:, :, None] * gaussian["weight"],
            "bias": alpha * gaussian["bias"],
        }

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        return LDA().once(settings, dim, classes, rows)
