"""A perceptron with one hidden layer on the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import cosines_of_logits, project, weight_gradient
from stage2.methods.heads.interface import (
    MAX_NORM,
    Batch,
    Context,
    Parameters,
    Settings,
    Size,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.starts import fresh_linear

if TYPE_CHECKING:
    from torch import Tensor


class MLP(TrainedHead):
    """z = Wh + b with h = relu(Vx + a): both layers trained, initialised like `torch.nn.Linear`.

    V and a are the parameters ``hidden_weight`` and ``hidden_bias``; ``max_norm`` bounds ‖w_k‖.
    """

    description = "perceptron with one hidden layer"
    source = "backpropagation"
    settings = (Setting("hidden", 512, "number of hidden units", low=1), *MAX_NORM)
    shared = ("hidden",)
    biases = ("hidden_bias", "bias")

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        hidden = settings["hidden"]
        return Size(hidden * (dim + classes), 2 * classes + 3 * hidden)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        (hidden,) = {s["hidden"] for s in settings}
        below, above = (hidden, context.dim), (len(context.counts), hidden)
        return {
            **fresh_linear(settings, below, context.device, "hidden_"),
            **fresh_linear(settings, above, context.device),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(_hidden(parameters, batch), parameters["weight"], parameters["bias"])

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # ∂L/∂W = Gᵀh and ∂L/∂h = GW, which passes the relu where h > 0; then a linear layer again.
        hidden = _hidden(parameters, batch)
        back = project(grad, parameters["weight"].transpose(1, 2)).mul_(hidden > 0)
        return {
            "weight": weight_gradient(grad, hidden),
            "bias": grad.sum(0),
            "hidden_weight": weight_gradient(back, batch.x),
            "hidden_bias": back.sum(0),
        }

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        lengths = _hidden(parameters, batch).norm(dim=2)
        return cosines_of_logits(z, y, lengths, parameters["weight"], parameters["bias"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        return Reduction("perceptron", parameters)


def _hidden(parameters: Parameters, batch: Batch) -> Tensor:
    """h = relu(Vx + a) [B, C, H], the input of the second layer."""
    return project(batch.x, parameters["hidden_weight"], parameters["hidden_bias"]).relu_()
