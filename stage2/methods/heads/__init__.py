"""Every head by name. To add one, write its file and its line here."""

from stage2.methods.heads.attentive import Attentive
from stage2.methods.heads.clap import CLAP
from stage2.methods.heads.cosine import Cosine
from stage2.methods.heads.disalign import DisAlign
from stage2.methods.heads.etf import ETF
from stage2.methods.heads.gda_text import GDAText
from stage2.methods.heads.gla import GLA
from stage2.methods.heads.interface import (
    Batch,
    Context,
    Head,
    Parameters,
    Size,
    TrainedHead,
)
from stage2.methods.heads.kernel_ridge import KernelRidge
from stage2.methods.heads.knn import KNN
from stage2.methods.heads.lda import LDA
from stage2.methods.heads.linear import Linear
from stage2.methods.heads.logit_adjust import LogitAdjust
from stage2.methods.heads.logn import LogN
from stage2.methods.heads.lp_plus import LPPlus
from stage2.methods.heads.lws import LWS
from stage2.methods.heads.marc import MARC
from stage2.methods.heads.mislas import MiSLAS
from stage2.methods.heads.mlp import MLP
from stage2.methods.heads.ncm import NCM
from stage2.methods.heads.p2p import P2P
from stage2.methods.heads.pooled import Pooled
from stage2.methods.heads.rda import RDA
from stage2.methods.heads.ridge import Ridge
from stage2.methods.heads.samn import SAMN
from stage2.methods.heads.tau_norm import TauNorm
from stage2.methods.heads.tde import TDE
from stage2.methods.heads.text_classifier import TextClassifier
from stage2.methods.heads.tip_adapter import TipAdapter
from stage2.methods.heads.tokens import TokenHead
from stage2.methods.heads.vmf import VMF
from stage2.methods.heads.wise_ft import WiSEFT
from stage2.methods.heads.zero_shot import ZeroShot

HEADS: dict[str, Head] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "lws": LWS(),
    "mislas": MiSLAS(),
    "disalign": DisAlign(),
    "marc": MARC(),
    "tde": TDE(),
    "mlp": MLP(),
    "pooled": Pooled(),
    "attentive": Attentive(),
    "vmf": VMF(),
    "etf": ETF(),
    "samn": SAMN(),
    "tau_norm": TauNorm(),
    "logit_adjust": LogitAdjust(),
    "p2p": P2P(),
    "logn": LogN(),
    "ncm": NCM(),
    "knn": KNN(),
    "ridge": Ridge(),
    "kernel_ridge": KernelRidge(),
    "lda": LDA(),
    "rda": RDA(),
    "zero_shot": ZeroShot(),
    "wise_ft": WiSEFT(),
    "tip_adapter": TipAdapter(),
    "gda_text": GDAText(),
    "clap": CLAP(),
    "lp_plus": LPPlus(),
    "gla": GLA(),
}


def trained_head(name: str) -> TrainedHead:
    """Look up a head that is trained by gradient steps."""
    head = HEADS[name]
    assert isinstance(head, TrainedHead), f"{name} is not trained"
    return head


__all__ = [
    "HEADS",
    "Batch",
    "Context",
    "Head",
    "Parameters",
    "Size",
    "TextClassifier",
    "TokenHead",
    "TrainedHead",
    "trained_head",
]
