"""Heads as PyTorch modules that no longer need the engine.

A head becomes one of a few **forms** on the features x of a view [B, D]:

- `Affine` z = Wt(x) + b, with t(x) = x or its parts at length 1: every head that reduces to it. LWS
  is W = s ⊙ W₀, b = s ⊙ b₀; τ-normalisation, MiSLAS, logit adjustment, ridge and LDA likewise; the
  cosine classifier has one part of length 1 and W = s·ŵ, TDE several and its direction taken out.
- `Perceptron`, `Projected` (a fixed simplex), `Gated` and `GatedCosine` (DisAlign), `Means`
  (nearest class mean), `Neighbours` (k-NN), `Cache` (Tip-Adapter), those of
  `stage2.export.closed_forms`, and `Attentive` and `PooledTokens` (`stage2.export.token_forms`).

Axes: B rows or maps, K classes, D features, H hidden units, N training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from stage2.export.closed_forms import CLOSED_FORMS
from stage2.export.form import Allowed, Form, beside, by_length, linear
from stage2.export.token_forms import Attentive, PooledTokens
from stage2.methods.averaging import averaged
from stage2.methods.heads.knn import NO_VOTES
from stage2.methods.heads.transforms import TRANSFORMS, rank_empty_last


class Affine(Form):
    """z = Wt(x) + b; t cuts x into ``parts`` of length 1 each, or leaves it as it is for 0 parts.

    ``empty`` classes, if there are any, rank behind all others.
    """

    shapes: ClassVar[dict[str, str]] = {"weight": "KD", "bias": "K", "empty": "K"}
    constants: ClassVar[tuple[str, ...]] = ("empty",)
    allowed: ClassVar[dict[str, Allowed]] = {
        "parts": lambda value: type(value) is int and value >= 0
    }
    weight: Tensor
    bias: Tensor
    empty: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.parts: int = options["parts"]
        self.some_empty = bool(self.empty.any())
        self.on_maps = not self.some_empty

    def classify(self, x: Tensor) -> Tensor:
        if self.parts == 1 and x.dim() == 4:
            return by_length(linear(x, self.weight), x, self.bias)
        if self.parts:
            x = normalize(x.unflatten(1, (self.parts, -1)), dim=2).flatten(1, 2)
        z = linear(x, self.weight, self.bias)
        return _behind(z, self.empty) if self.some_empty else z


class Perceptron(Form):
    """z = W relu(Vx + a) + b."""

    shapes: ClassVar[dict[str, str]] = {
        "hidden_weight": "HD",
        "hidden_bias": "H",
        "weight": "KH",
        "bias": "K",
    }
    on_maps = True
    hidden_weight: Tensor
    hidden_bias: Tensor
    weight: Tensor
    bias: Tensor

    def classify(self, x: Tensor) -> Tensor:
        hidden = linear(x, self.hidden_weight, self.hidden_bias).relu()
        return linear(hidden, self.weight, self.bias)


class Projected(Form):
    """z = W h/‖h‖ with h = Vx + a."""

    shapes: ClassVar[dict[str, str]] = {"hidden_weight": "HD", "hidden_bias": "H", "weight": "KH"}
    on_maps = True
    hidden_weight: Tensor
    hidden_bias: Tensor
    weight: Tensor

    def classify(self, x: Tensor) -> Tensor:
        hidden = linear(x, self.hidden_weight, self.hidden_bias)
        return linear(normalize(hidden, dim=1), self.weight)


class Gated(Form):
    """z = z⁰ + σ·(α ⊙ z⁰ + β) with z⁰ = Wx + b and σ = sigmoid(v·x + c) [DisAlign eq. 4–6]."""

    shapes: ClassVar[dict[str, str]] = {
        "weight": "KD",
        "bias": "K",
        "alpha": "K",
        "beta": "K",
        "v": "D",
        "c": "1",
    }
    on_maps = True
    weight: Tensor
    bias: Tensor
    alpha: Tensor
    beta: Tensor
    v: Tensor
    c: Tensor

    def classify(self, x: Tensor) -> Tensor:
        z, gate = self.products(x, self.bias)
        return self.gated(z, gate)

    def products(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Wx + `bias` [B, K] and v·x + c [B, 1], as one product."""
        weight, bias = torch.cat([self.weight, self.v[None]]), torch.cat([bias, self.c])
        outputs = linear(x, weight, bias)
        return outputs[:, :-1], outputs[:, -1:]

    def gated(self, z: Tensor, gate: Tensor) -> Tensor:
        """z of z⁰ [B, K] and v·x + c [B, 1]."""
        calibration = torch.addcmul(beside(self.beta, z), beside(self.alpha, z), z)
        return torch.addcmul(z, gate.sigmoid(), calibration)


class GatedCosine(Gated):
    """The same on the logits of a cosine classifier, z⁰ = W x/‖x‖ + b with ‖w_k‖ = s."""

    def classify(self, x: Tensor) -> Tensor:
        z, gate = self.products(x, torch.zeros_like(self.bias))
        return self.gated(by_length(z, x, self.bias), gate)


class _Compared(Form):
    """Compares t(x) with ``keys``, by cosine or by squared distance. Distances are taken from an
    ``origin``, as a common offset would leave little but rounding of them."""

    allowed: ClassVar[dict[str, Allowed]] = {
        "transform": lambda value: value in TRANSFORMS,
        "metric": lambda value: value in ("l2", "cosine"),
    }
    center: Tensor
    origin: Tensor
    keys: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.centered, self.unit = options["transform"] == "cl2n", options["transform"] != "un"
        self.cosine = options["metric"] == "cosine"

    def closeness(self, x: Tensor) -> Tensor:
        """The cosine, or −‖t(x) − key‖², of every row and key."""
        if self.centered:
            x = x - self.center
        if self.unit:
            x = normalize(x, dim=1)
        if self.cosine:
            return linear(normalize(x, dim=1), self.keys)
        x = x - self.origin
        products = linear(x, 2 * self.keys, -self.keys.square().sum(1))
        return (products - x.square().sum(1, keepdim=True)).clamp(max=0.0)


class Means(_Compared):
    """z_k is the closeness of t(x) and the mean of class k."""

    shapes: ClassVar[dict[str, str]] = {"center": "D", "origin": "D", "keys": "KD", "empty": "K"}
    constants: ClassVar[tuple[str, ...]] = ("empty",)
    empty: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.some_empty = bool(self.empty.any())

    def classify(self, x: Tensor) -> Tensor:
        z = self.closeness(x)
        return _behind(z, self.empty) if self.some_empty else z


class Neighbours(_Compared):
    """z_k is the log of class k's share of the votes of the k nearest training rows."""

    shapes: ClassVar[dict[str, str]] = {
        "center": "D", "origin": "D", "keys": "ND", "labels": "N",
        "class_weight": "K", "sharpness": "1",
    }  # fmt: skip
    constants: ClassVar[tuple[str, ...]] = tuple(shapes)
    allowed: ClassVar[dict[str, Allowed]] = {
        **_Compared.allowed,
        "k": lambda value: type(value) is int and value >= 1,
    }
    labels: Tensor
    class_weight: Tensor
    sharpness: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.k = min(options["k"], len(self.keys))
        self.least = float(NO_VOTES)

    def classify(self, x: Tensor) -> Tensor:
        nearest = self.closeness(x).topk(self.k, dim=1)
        behind = nearest.values - nearest.values[:, :1]
        if not self.cosine:
            behind = behind / 2
        vote = (behind * self.sharpness).exp()
        votes = torch.zeros_like(x[:, :1] * self.class_weight)
        votes = votes.scatter_add(1, self.labels[nearest.indices], vote) * self.class_weight
        return (votes / votes.sum(1, keepdim=True)).clamp(min=self.least).log()


class Cache(Form):
    """z_k = ⟨w_k, x⟩ + ω_k Σ_{i of class k} exp(−β(1 − ⟨x̂, x̂_i⟩)), x̂ = x/‖x‖, over training rows
    x̂_i."""

    shapes: ClassVar[dict[str, str]] = {
        "weight": "KD", "keys": "ND", "labels": "N", "class_weight": "K", "sharpness": "1",
    }  # fmt: skip
    constants: ClassVar[tuple[str, ...]] = tuple(shapes)
    weight: Tensor
    keys: Tensor
    labels: Tensor
    class_weight: Tensor
    sharpness: Tensor

    def classify(self, x: Tensor) -> Tensor:
        near = (self.sharpness * (linear(normalize(x, dim=1), self.keys) - 1)).exp()
        z = linear(x, self.weight)
        votes = torch.zeros_like(z).scatter_add(1, self.labels.expand(len(x), -1), near)
        return z + self.class_weight * votes


FORMS: dict[str, type[Form]] = {
    "affine": Affine,
    "perceptron": Perceptron,
    "projected": Projected,
    "gated": Gated,
    "gated_cosine": GatedCosine,
    "means": Means,
    "neighbours": Neighbours,
    "attentive": Attentive,
    "pooled": PooledTokens,
    **CLOSED_FORMS,
    "cache": Cache,
}
"""Every form by the name it has in a file."""


class Scaled(nn.Module):
    """A form on features scaled as they were in training: (x − ``input_shift``) ⊙ ``input_scale``,
    or with an ``input_unit`` of 1 ``input_scale``·x/‖x‖.

    Parameters
    ----------
    form
        The classifier of scaled features.
    scaling
        `stage2.features.scale.Scaling` by the names of `INPUT`: scale [1] or [D], and shift [D] or
        none, or unit [1].
    """

    input_scale: Tensor
    input_shift: Tensor | None
    input_unit: Tensor | None

    def __init__(self, form: Form, scaling: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.form = form
        for name in INPUT:
            self.register_buffer(name, scaling.get(name))

    def forward(self, x: Tensor) -> Tensor:
        if self.input_unit is not None:
            x = normalize(x, dim=1)
        x = x if self.input_shift is None else x - beside(self.input_shift, x)
        return self.form(x * beside(self.input_scale, x))


INPUT: dict[str, tuple[str, ...]] = {
    "input_scale": ("1", "D"),
    "input_shift": ("D",),
    "input_unit": ("1",),
}
"""The tensors of `Scaled` with their possible axes."""


class HeadModule(nn.Module):
    """A head on one view, features [B, D] to logits [B, K], or maps [B, D, H, W] to [B, K, H, W]:
    a form and its calibration.

    Parameters
    ----------
    form
        The classifier.
    scale, shift
        Of the calibration u = a·z + b, [1] or [K], and [K]; or None.

    Attributes
    ----------
    inputs
        `stage2.export.inputs.Inputs`, which make the features of what the head is given; or None.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self, form: nn.Module, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> None:
        super().__init__()
        self.inputs: nn.Module | None = None
        self.form = form
        self.scale = None if scale is None else nn.Parameter(scale.detach().clone())
        self.shift = None if shift is None else nn.Parameter(shift.detach().clone())

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        x = features if self.inputs is None else self.inputs(features)
        return _calibrated(self.form(x), self.scale, self.shift)


class AveragedHeads(nn.Module):
    """A head on each of V views, a tuple of features [B, D] to logits [B, K], or of maps
    [B, D, H, W] to [B, K, H, W]: their average, as probabilities (the log of their sum) or as
    logits, by equal or other `shares`, and its calibration. Its `inputs` are those of
    `HeadModule`."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        forms: Sequence[nn.Module],
        average: str,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.inputs: nn.Module | None = None
        self.forms, self.average = nn.ModuleList(forms), average
        self.shares = None if shares is None else tuple(shares)
        self.scale = None if scale is None else nn.Parameter(scale.detach().clone())
        self.shift = None if shift is None else nn.Parameter(shift.detach().clone())

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        views = features if self.inputs is None else self.inputs(features)
        z = [form(x).movedim(1, -1) for form, x in zip(self.forms, views, strict=True)]
        mean = averaged(z, self.average == "logits", self.shares).movedim(-1, 1)
        return _calibrated(mean, self.scale, self.shift)


def _behind(z: Tensor, empty: Tensor) -> Tensor:
    return rank_empty_last(z[:, None], empty[None])[:, 0]


def _calibrated(z: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is not None:
        z = z * beside(scale, z)
    return z if shift is None else z + beside(shift, z)
